-- `marker` names the vectors by which a command sees that all changes sent so far have arrived in the other place (see
-- pelican.arrival). It is written down before they are, so that those of a command that was killed are found again.
ALTER TABLE sync.reindex ADD COLUMN marker text;

-- As before, but with the name of its variable as it must be written.
CREATE OR REPLACE FUNCTION sync.start_reindex(
  source_id smallint, index_host text, model text, text_columns text[], text_template text, metadata_columns text[])
RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
  namespace text;
BEGIN
  LOOP
    UPDATE sync.source s SET places = s.places + 1, revision = s.revision + 1
    WHERE s.id = source_id RETURNING s.name || '--' || s.places INTO STRICT namespace;
    EXIT WHEN NOT EXISTS (SELECT FROM sync.source s WHERE namespace IN (s.name, s.namespace))
          AND NOT EXISTS (SELECT FROM sync.reindex r WHERE r.namespace = namespace);
  END LOOP;
  INSERT INTO sync.reindex (source_id, namespace, index_host, model, text_columns, text_template, metadata_columns, total)
  SELECT s.id, namespace, index_host, model, text_columns, text_template, metadata_columns,
         greatest(c.reltuples, pg_stat_get_live_tuples(c.oid), 0)::bigint
  FROM sync.source s
  JOIN pg_namespace n ON n.nspname = s.schema_name
  JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = s.table_name
  WHERE s.id = source_id;
  PERFORM sync.capture(source_id);
  PERFORM pg_notify('aviary', '');
END
$$;
