-- The text of a row's key, as SQL over the alias `r`: the column's text, or a JSON array of the columns' texts.
-- The same rule as aviary.source.key_text. COLLATE "C": keys are compared byte by byte, whatever the column's collation.
CREATE FUNCTION sync.key_expression(key_columns text[]) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
RETURN CASE
  WHEN cardinality(key_columns) = 1 THEN format('(r.%I::text COLLATE "C")', key_columns[1])
  ELSE (SELECT format('(json_build_array(%s)::text COLLATE "C")', string_agg(format('r.%I::text', c), ', ' ORDER BY n))
        FROM unnest(key_columns) WITH ORDINALITY AS k(c, n))
END;

-- An INSERT into the outbox of what `rows` selects (key, text_unchanged): some 200 keys of one shard to a row.
CREATE FUNCTION sync.enqueue_code(source_id smallint, rows text, lane smallint DEFAULT 0) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
RETURN format(
  'INSERT INTO sync.outbox (source_id, shard, lane, keys, text_unchanged)
   SELECT %s, k.shard, %s, array_agg(k.key), k.text_unchanged
   FROM (SELECT c.key, c.text_unchanged, (hashtextextended(c.key, 0) & 15)::smallint AS shard,
                row_number() OVER () / 3200 AS chunk
         FROM (%s) c) k
   GROUP BY k.shard, k.text_unchanged, k.chunk', source_id, lane, rows);

-- The body of a source's trigger function.
--
-- It runs in the application's own transaction and must never fail there. What it cannot foresee is a later ALTER
-- TABLE of a column that it names, so it asks first, by a query that reads no row, inside an exception block that
-- writes nothing (and so takes no transaction id). Where a mapped column is gone every key of an UPDATE is recorded
-- instead of the changed ones; where a key column is gone there is nothing to record, and a warning says so.
CREATE FUNCTION sync.capture_code(source_id smallint, key_columns text[], text_columns text[], metadata_columns text[])
RETURNS text LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  key text := sync.key_expression(key_columns);
  plain text := 'SELECT ' || key || ' AS key, false AS text_unchanged FROM ';
  columns text;
  fields text; -- the mapped columns under names of our own: t1, t2, … in the text, m1, … in the metadata only
  same_text text;
  same_metadata text;
BEGIN
  SELECT string_agg(format('r.%I', c), ', ' ORDER BY n), string_agg(format('r.%I AS t%s', c, n), ', ' ORDER BY n),
         format('record_image_eq(ROW(%s), ROW(%s))', string_agg('o.t' || n, ', ' ORDER BY n),
                string_agg('n.t' || n, ', ' ORDER BY n))
  INTO columns, fields, same_text
  FROM unnest(text_columns) WITH ORDINALITY AS t(c, n);
  SELECT concat_ws(', ', columns, string_agg(format('r.%I', c), ', ' ORDER BY n)),
         concat_ws(', ', fields, string_agg(format('r.%I AS m%s', c, n), ', ' ORDER BY n)),
         CASE WHEN count(*) = 0 THEN 'true'
              ELSE format('record_image_eq(ROW(%s), ROW(%s))', string_agg('o.m' || n, ', ' ORDER BY n),
                          string_agg('n.m' || n, ', ' ORDER BY n)) END
  INTO columns, fields, same_metadata
  FROM unnest(metadata_columns) WITH ORDINALITY AS m(c, n) WHERE c <> ALL (text_columns);

  RETURN format($code$
#variable_conflict use_column
DECLARE
  intact boolean := true;
  wrote bigint;
BEGIN
  IF TG_OP = 'INSERT' THEN
    BEGIN PERFORM %1$s FROM new_rows r LIMIT 0; EXCEPTION WHEN OTHERS THEN intact := false; END;
    IF intact THEN
      %3$s;
    END IF;
  ELSIF TG_OP = 'DELETE' THEN
    BEGIN PERFORM %1$s FROM old_rows r LIMIT 0; EXCEPTION WHEN OTHERS THEN intact := false; END;
    IF intact THEN
      %4$s;
    END IF;
  ELSIF TG_OP = 'UPDATE' THEN
    BEGIN PERFORM %1$s, %2$s FROM new_rows r LIMIT 0; EXCEPTION WHEN OTHERS THEN intact := false; END;
    IF intact THEN
      %5$s;
    ELSE
      BEGIN
        %6$s;
        intact := true;
      EXCEPTION WHEN OTHERS THEN
        NULL;
      END;
    END IF;
  ELSE
    BEGIN
      EXECUTE sync.enqueue_code(%8$s::smallint,
                                %7$L || format('ONLY %%I.%%I r', TG_TABLE_SCHEMA, TG_TABLE_NAME));
    EXCEPTION WHEN OTHERS THEN
      intact := false;
    END;
  END IF;
  GET DIAGNOSTICS wrote = ROW_COUNT;
  IF NOT intact THEN
    RAISE WARNING 'search does not see this %% of %%.%%: its key column changed, or may not be read',
      TG_OP, TG_TABLE_SCHEMA, TG_TABLE_NAME USING HINT = 'Run `python -m pelican watch` again for this table.';
  -- A full notification queue, or one in a transaction that is prepared for two-phase commit, would abort the
  -- application's transaction. Without it, Pelican looks by itself once a second.
  ELSIF wrote > 0 AND pg_notification_queue_usage() < 0.5 AND current_setting('max_prepared_transactions') = '0' THEN
    PERFORM pg_notify('aviary', '');
  END IF;
  RETURN NULL;
END$code$,
    key,
    columns,
    sync.enqueue_code(source_id, plain || 'new_rows r'),
    sync.enqueue_code(source_id, plain || 'old_rows r'),
    -- Images are compared, not values: 1.0 and 1.00 are equal but print differently, and some types have no equality.
    sync.enqueue_code(source_id, format(
      'SELECT coalesce(n.key, o.key) AS key, n.key IS NOT NULL AND o.key IS NOT NULL AND %3$s AS text_unchanged
       FROM (SELECT %1$s AS key, %2$s FROM old_rows r) o FULL JOIN (SELECT %1$s AS key, %2$s FROM new_rows r) n
         ON n.key = o.key
       WHERE n.key IS NULL OR o.key IS NULL OR NOT (%3$s AND %4$s)', key, fields, same_text, same_metadata)),
    sync.enqueue_code(source_id, plain || 'old_rows r UNION ' || plain || 'new_rows r'),
    plain,
    source_id);
END
$$;

-- Make a table watched, or change the mapping of one that is. `changed` says whether f(row) is another one now, so
-- that rows must be sent again. Checks of the table and its columns are the caller's (python -m pelican watch).
CREATE FUNCTION sync.watch(
  relation regclass, source_name text, key_columns text[], text_columns text[], text_template text,
  metadata_columns text[], OUT source_id smallint, OUT changed boolean)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET client_min_messages = warning AS $$
#variable_conflict use_variable
DECLARE
  known sync.source;
  place record;
  settings text;
  operation record;
BEGIN
  SELECT n.nspname AS schema_name, c.relname AS table_name INTO place
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = relation;
  -- Waits for the writers of this moment. So every row is either committed, and a backfill that starts later sees it,
  -- or is written by a statement that already runs the new triggers.
  EXECUTE format('LOCK TABLE %s IN SHARE ROW EXCLUSIVE MODE', relation);

  SELECT * INTO known FROM sync.source s
  WHERE s.schema_name = place.schema_name AND s.table_name = place.table_name FOR UPDATE;
  IF known.id IS NULL THEN
    INSERT INTO sync.source AS s (name, schema_name, table_name, key_columns, text_columns, text_template,
                                  metadata_columns, namespace)
    VALUES (source_name, place.schema_name, place.table_name, key_columns, text_columns, text_template,
            metadata_columns, source_name)
    RETURNING s.id INTO source_id;
    INSERT INTO sync.claim SELECT source_id, shard FROM generate_series(0, 15) AS shard;
    changed := true;
  ELSE
    IF known.key_columns <> key_columns OR known.name <> source_name THEN
      RAISE EXCEPTION 'the key and the name of a watched table cannot change'
        USING HINT = 'Unwatch it, empty its namespace in the index, and watch it again.';
    END IF;
    source_id := known.id;
    changed := known.text_template <> text_template
      OR NOT (known.metadata_columns <@ metadata_columns AND metadata_columns <@ known.metadata_columns);
    UPDATE sync.source s
    SET text_columns = watch.text_columns, text_template = watch.text_template,
        metadata_columns = watch.metadata_columns, revision = s.revision + 1
    WHERE s.id = source_id;
  END IF;

  -- The text of these types depends on the session that prints it, so the trigger prints it under settings of its own.
  SELECT CASE WHEN bool_or(a.atttypid IN ('date'::regtype, 'timestamp'::regtype, 'timestamptz'::regtype))
              THEN 'SET datestyle = ''ISO, YMD'' SET timezone = ''UTC''' ELSE '' END INTO settings
  FROM pg_attribute a WHERE a.attrelid = relation AND a.attname = ANY (key_columns);
  EXECUTE format('CREATE OR REPLACE FUNCTION sync.%I() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER '
                 'SET search_path = pg_catalog, pg_temp %s AS %L', 'capture_' || source_id, settings,
                 sync.capture_code(source_id, key_columns, text_columns, metadata_columns));
  EXECUTE format('REVOKE ALL ON FUNCTION sync.%I() FROM PUBLIC', 'capture_' || source_id);
  FOR operation IN VALUES
    ('aviary_insert', 'AFTER INSERT', 'REFERENCING NEW TABLE AS new_rows'),
    ('aviary_update', 'AFTER UPDATE', 'REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows'),
    ('aviary_delete', 'AFTER DELETE', 'REFERENCING OLD TABLE AS old_rows'),
    ('aviary_truncate', 'BEFORE TRUNCATE', '')
  LOOP
    EXECUTE format('CREATE OR REPLACE TRIGGER %s %s ON %s %s FOR EACH STATEMENT EXECUTE FUNCTION sync.%I()',
                   operation.column1, operation.column2, relation, operation.column3, 'capture_' || source_id);
  END LOOP;
  EXECUTE format('GRANT USAGE ON SCHEMA %I TO aviary_pelican, aviary_frontend', place.schema_name);
  EXECUTE format('GRANT SELECT ON %s TO aviary_pelican, aviary_frontend', relation);
END
$$;

-- Forget a watched table: triggers, outbox rows, claims, progress. Vectors stay: the index is not ours to reach.
CREATE FUNCTION sync.unwatch(source_name text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET client_min_messages = warning AS $$
DECLARE
  known sync.source;
  relation regclass;
BEGIN
  SELECT * INTO STRICT known FROM sync.source s WHERE s.name = source_name FOR UPDATE;
  relation := to_regclass(format('%I.%I', known.schema_name, known.table_name));
  IF relation IS NOT NULL THEN
    EXECUTE format('REVOKE SELECT ON %s FROM aviary_pelican', relation);
  END IF;
  -- With it go its triggers, also where the table was renamed.
  EXECUTE format('DROP FUNCTION IF EXISTS sync.%I() CASCADE', 'capture_' || known.id);
  DELETE FROM sync.outbox o WHERE o.source_id = known.id;
  DELETE FROM sync.claim c WHERE c.source_id = known.id;
  DELETE FROM sync.source s WHERE s.id = known.id;
END
$$;

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA sync FROM PUBLIC;
