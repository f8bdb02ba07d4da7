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
  'INSERT INTO sync.outbox (source_id, shard, lane, keys, key_count, text_unchanged)
   SELECT %s, k.shard, %s, array_agg(k.key), count(*), k.text_unchanged
   FROM (SELECT c.key, c.text_unchanged, (hashtextextended(c.key, 0) & 15)::smallint AS shard,
                row_number() OVER () / 3200 AS chunk
         FROM (%s) c) k
   GROUP BY k.shard, k.text_unchanged, k.chunk', source_id, lane, rows);

-- The body of a source's trigger function for INSERT, UPDATE or DELETE.
--
-- It runs in the application's own transaction and must never fail there. What it cannot foresee is a later ALTER
-- TABLE of a column that it names, so its first look at the rows stands in an exception block, which writes nothing
-- (and so takes no transaction id). Where a mapped column is gone every key of an UPDATE is recorded instead of the
-- changed ones; where a key column is gone there is nothing to record, and a warning says so.
--
-- Most statements write one row, and then the first look has told all: joins and aggregates run only for more.
CREATE FUNCTION sync.capture_code(
  operation text, source_id smallint, key_columns text[], text_columns text[], metadata_columns text[])
RETURNS text LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  key text := sync.key_expression(key_columns);
  old_keys text := format('SELECT %s AS key, false AS text_unchanged FROM old_rows r', key);
  new_keys text := format('SELECT %s AS key, false AS text_unchanged FROM new_rows r', key);
  fields text; -- the mapped columns under names of our own: t1, t2, … in the text, m1, … in the metadata only
  old_fields text;
  new_fields text;
  same_text text;
  same_metadata text;
  look text;
  changed text;
  blind text;
BEGIN
  CASE operation
  WHEN 'INSERT' THEN
    look := format('SELECT %s, EXISTS (SELECT FROM new_rows OFFSET 1) INTO new_key, many FROM new_rows r LIMIT 1', key);
    changed := new_keys;
    blind := new_keys;
  WHEN 'DELETE' THEN
    look := format('SELECT %s, EXISTS (SELECT FROM old_rows OFFSET 1) INTO old_key, many FROM old_rows r LIMIT 1', key);
    changed := old_keys;
    blind := old_keys;
  WHEN 'UPDATE' THEN
    -- Images are compared, not values: 1.0 and 1.00 are equal but print differently, and some types have no equality.
    SELECT string_agg(format('r.%I AS t%s', c, n), ', ' ORDER BY n),
           format('record_image_eq(ROW(%s), ROW(%s))', string_agg('o.t' || n, ', ' ORDER BY n),
                  string_agg('n.t' || n, ', ' ORDER BY n))
    INTO fields, same_text
    FROM unnest(text_columns) WITH ORDINALITY AS t(c, n);
    SELECT concat_ws(', ', fields, string_agg(format('r.%I AS m%s', c, n), ', ' ORDER BY n)),
           CASE WHEN count(*) = 0 THEN 'true'
                ELSE format('record_image_eq(ROW(%s), ROW(%s))', string_agg('o.m' || n, ', ' ORDER BY n),
                            string_agg('n.m' || n, ', ' ORDER BY n)) END
    INTO fields, same_metadata
    FROM unnest(metadata_columns) WITH ORDINALITY AS m(c, n) WHERE c <> ALL (text_columns);
    old_fields := format('(SELECT %s AS key, %s FROM old_rows r) o', key, fields);
    new_fields := format('(SELECT %s AS key, %s FROM new_rows r) n', key, fields);
    look := format(
      'SELECT o.key, n.key, %s, %s, EXISTS (SELECT FROM new_rows OFFSET 1)
       INTO old_key, new_key, same_text, same_metadata, many FROM %s, %s LIMIT 1',
      same_text, same_metadata, old_fields, new_fields);
    changed := format(
      'SELECT coalesce(n.key, o.key) AS key, n.key IS NOT NULL AND o.key IS NOT NULL AND %1$s AS text_unchanged
       FROM %3$s FULL JOIN %4$s ON n.key = o.key
       WHERE n.key IS NULL OR o.key IS NULL OR NOT (%1$s AND %2$s)', same_text, same_metadata, old_fields, new_fields);
    blind := old_keys || ' UNION ' || new_keys;
  END CASE;

  RETURN format($code$
#variable_conflict use_variable
DECLARE
  old_key text;
  new_key text;
  same_text boolean;
  same_metadata boolean;
  many boolean;
  intact boolean := true;
  wrote boolean := true;
  void text;
BEGIN
  BEGIN
    %2$s;
  EXCEPTION WHEN OTHERS THEN
    intact := false;
  END;
  IF NOT intact THEN
    BEGIN
      %4$s;
    EXCEPTION WHEN OTHERS THEN
      RAISE WARNING 'search does not see this %% of %%.%%: its key column changed', TG_OP, TG_TABLE_SCHEMA, TG_TABLE_NAME
        USING HINT = 'Run `python -m pelican watch` again for this table.';
    END;
  ELSIF many THEN
    %3$s;
    wrote := FOUND;
  ELSIF new_key = old_key THEN
    wrote := NOT (same_text AND same_metadata);
    IF wrote THEN
      INSERT INTO sync.outbox (source_id, shard, keys, key_count, text_unchanged)
      VALUES (%1$s, (hashtextextended(new_key, 0) & 15)::smallint, ARRAY[new_key], 1, same_text);
    END IF;
  ELSE
    wrote := new_key IS NOT NULL OR old_key IS NOT NULL;
    IF old_key IS NOT NULL THEN
      INSERT INTO sync.outbox (source_id, shard, keys, key_count)
      VALUES (%1$s, (hashtextextended(old_key, 0) & 15)::smallint, ARRAY[old_key], 1);
    END IF;
    IF new_key IS NOT NULL THEN
      INSERT INTO sync.outbox (source_id, shard, keys, key_count)
      VALUES (%1$s, (hashtextextended(new_key, 0) & 15)::smallint, ARRAY[new_key], 1);
    END IF;
  END IF;
  IF wrote AND sync.may_notify() THEN
    void := pg_notify('aviary', '');
  END IF;
  RETURN NULL;
END$code$, source_id, look, sync.enqueue_code(source_id, changed), sync.enqueue_code(source_id, blind));
END
$$;

-- Whether to wake Pelican by a NOTIFY. Not while it is awake (see sync.quiet); and not where the NOTIFY would abort the
-- application's transaction: when the notification queue fills up, or when two-phase commit is in use, which refuses
-- it. Without the NOTIFY, Pelican looks by itself once a second.
CREATE FUNCTION sync.may_notify() RETURNS boolean LANGUAGE sql VOLATILE
RETURN pg_catalog.pg_sequence_last_value('sync.quiet') OPERATOR(pg_catalog.=) 0
   AND pg_catalog.pg_notification_queue_usage() OPERATOR(pg_catalog.<) 0.5
   AND pg_catalog.current_setting('max_prepared_transactions') OPERATOR(pg_catalog.=) '0';

-- The body of a source's trigger function for TRUNCATE, which shows no rows: it reads the keys of all that are there.
CREATE FUNCTION sync.capture_truncate_code(source_id smallint, key_columns text[]) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
RETURN format($code$
BEGIN
  EXECUTE sync.enqueue_code(%s::smallint, %L || format('ONLY %%I.%%I r', TG_TABLE_SCHEMA, TG_TABLE_NAME));
  IF sync.may_notify() THEN
    PERFORM pg_notify('aviary', '');
  END IF;
  RETURN NULL;
EXCEPTION WHEN OTHERS THEN
  RAISE WARNING 'search does not see this TRUNCATE of %%.%%: its key column changed', TG_TABLE_SCHEMA, TG_TABLE_NAME
    USING HINT = 'Run `python -m pelican watch` again for this table.';
  RETURN NULL;
END$code$, source_id, format('SELECT %s AS key, false AS text_unchanged FROM ', sync.key_expression(key_columns)));

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
  capture record;
  needed record;
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
  FOR capture IN
    SELECT format('capture_%s_%s', source_id, lower(operation)) AS name, operation, moment, rows,
           CASE operation WHEN 'TRUNCATE' THEN sync.capture_truncate_code(source_id, key_columns)
                ELSE sync.capture_code(operation, source_id, key_columns, text_columns, metadata_columns) END AS code
    FROM (VALUES ('INSERT', 'AFTER', 'REFERENCING NEW TABLE AS new_rows'),
                 ('UPDATE', 'AFTER', 'REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows'),
                 ('DELETE', 'AFTER', 'REFERENCING OLD TABLE AS old_rows'),
                 ('TRUNCATE', 'BEFORE', '')) AS v(operation, moment, rows)
  LOOP
    EXECUTE format('CREATE OR REPLACE FUNCTION sync.%I() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER '
                   'SET search_path = pg_catalog, pg_temp %s AS %L', capture.name, settings, capture.code);
    EXECUTE format('REVOKE ALL ON FUNCTION sync.%I() FROM PUBLIC', capture.name);
    EXECUTE format('CREATE OR REPLACE TRIGGER %I %s %s ON %s %s FOR EACH STATEMENT EXECUTE FUNCTION sync.%I()',
                   'aviary_' || lower(capture.operation), capture.moment, capture.operation, relation, capture.rows,
                   capture.name);
  END LOOP;
  -- Reading needs the table's schema, and casting a key's text back the schema of its type (an enum has its own).
  FOR needed IN
    SELECT place.schema_name AS name
    UNION
    SELECT n.nspname FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid JOIN pg_namespace n ON n.oid = t.typnamespace
    WHERE a.attrelid = relation AND a.attname = ANY (key_columns) AND n.nspname <> 'pg_catalog'
  LOOP
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO aviary_pelican, aviary_frontend', needed.name);
  END LOOP;
  EXECUTE format('GRANT SELECT ON %s TO aviary_pelican, aviary_frontend', relation);
END
$$;

-- Forget a watched table: triggers, outbox rows, claims, progress. Vectors stay: the index is not ours to reach.
CREATE FUNCTION sync.unwatch(source_name text) RETURNS void
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

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA sync FROM PUBLIC;
