-- sync.watch lets both services read the table, so sync.unwatch takes it from both. What the frontend may also write (the
-- catalogue's own table) it goes on reading: those rights were never the watch's.
CREATE OR REPLACE FUNCTION sync.unwatch(source_name text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET client_min_messages = warning AS $$
DECLARE
  known sync.source;
  relation regclass;
  operation text;
BEGIN
  SELECT * INTO STRICT known FROM sync.source s WHERE s.name = source_name FOR UPDATE;
  relation := to_regclass(format('%I.%I', known.schema_name, known.table_name));
  IF relation IS NOT NULL THEN
    EXECUTE format('REVOKE SELECT ON %s FROM aviary_pelican', relation);
    IF NOT has_table_privilege('aviary_frontend', relation, 'INSERT') THEN
      EXECUTE format('REVOKE SELECT ON %s FROM aviary_frontend', relation);
    END IF;
  END IF;
  -- With the functions go their triggers, also where the table was renamed.
  FOREACH operation IN ARRAY ARRAY['insert', 'update', 'delete', 'truncate'] LOOP
    EXECUTE format('DROP FUNCTION IF EXISTS sync.%I() CASCADE', format('capture_%s_%s', known.id, operation));
  END LOOP;
  DELETE FROM sync.outbox o WHERE o.source_id = known.id;
  DELETE FROM sync.claim c WHERE c.source_id = known.id;
  DELETE FROM sync.source s WHERE s.id = known.id;
END
$$;
