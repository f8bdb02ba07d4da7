-- Where in the index a source is, and what makes its vectors: its active place, which searches ask. `index_host` is ''
-- for the configured index. `places` counts those made so far, because no namespace is ever used a second time: what is
-- still on its way to an old one must not meet a new one.
ALTER TABLE sync.source
  ADD COLUMN index_host text NOT NULL DEFAULT '',
  ADD COLUMN model text NOT NULL DEFAULT 'all-MiniLM-L6-v2',
  ADD COLUMN places integer NOT NULL DEFAULT 1;

-- The other place of a source, where it has one. Live changes go to both.
--   building  its rows are being sent (`cursor`, `enqueued`, `total`: progress of the pages; `finished_at`: all enqueued)
--   ready     checked: every row has arrived; a switch makes it the active one
--   previous  was the active place before the switch; a rollback makes it that again
--   dropping  gets no changes any more; its vectors are being deleted
CREATE TABLE sync.reindex (
  source_id        smallint PRIMARY KEY REFERENCES sync.source ON DELETE CASCADE,
  state            text NOT NULL DEFAULT 'building' CHECK (state IN ('building', 'ready', 'previous', 'dropping')),
  namespace        text NOT NULL UNIQUE,
  index_host       text NOT NULL,
  model            text NOT NULL,
  text_columns     text[] NOT NULL,
  text_template    text NOT NULL,
  metadata_columns text[] NOT NULL,
  cursor           text[],
  enqueued         bigint NOT NULL DEFAULT 0,
  total            bigint NOT NULL DEFAULT 0,
  started_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
  finished_at      timestamptz,
  changed_at       timestamptz NOT NULL DEFAULT clock_timestamp() -- since when it is in this state
);

-- (Re)make the triggers of a source. They look at the columns of both places, so that a change that concerns only one
-- of them is captured too.
CREATE FUNCTION sync.capture(source_id smallint) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET client_min_messages = warning AS $$
#variable_conflict use_variable
DECLARE
  known sync.source;
  other sync.reindex;
  relation regclass;
  text_columns text[];
  metadata_columns text[];
  settings text;
  capture record;
BEGIN
  SELECT * INTO STRICT known FROM sync.source s WHERE s.id = source_id;
  SELECT * INTO other FROM sync.reindex r WHERE r.source_id = known.id;
  relation := format('%I.%I', known.schema_name, known.table_name)::regclass;
  -- Waits for the writers of this moment. So every row is either committed, and what pages through the table later sees
  -- it, or is written by a statement that already runs the new triggers.
  EXECUTE format('LOCK TABLE %s IN SHARE ROW EXCLUSIVE MODE', relation);

  text_columns := known.text_columns || ARRAY(
    SELECT c FROM unnest(other.text_columns) WITH ORDINALITY AS o(c, n) WHERE c <> ALL (known.text_columns) ORDER BY n);
  metadata_columns := known.metadata_columns || ARRAY(
    SELECT c FROM unnest(other.metadata_columns) WITH ORDINALITY AS o(c, n)
    WHERE c <> ALL (known.metadata_columns) ORDER BY n);
  -- The text of these types depends on the session that prints it, so the trigger prints it under settings of its own.
  SELECT CASE WHEN bool_or(a.atttypid IN ('date'::regtype, 'timestamp'::regtype, 'timestamptz'::regtype))
              THEN 'SET datestyle = ''ISO, YMD'' SET timezone = ''UTC''' ELSE '' END INTO settings
  FROM pg_attribute a WHERE a.attrelid = relation AND a.attname = ANY (known.key_columns);
  FOR capture IN
    SELECT format('capture_%s_%s', known.id, lower(operation)) AS name, operation, moment, rows,
           CASE operation WHEN 'TRUNCATE' THEN sync.capture_truncate_code(known.id, known.key_columns)
                ELSE sync.capture_code(operation, known.id, known.key_columns, text_columns, metadata_columns) END AS code
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
END
$$;

-- As before, but for the triggers, which are sync.capture's now.
CREATE OR REPLACE FUNCTION sync.watch(
  relation regclass, source_name text, key_columns text[], text_columns text[], text_template text,
  metadata_columns text[], OUT source_id smallint, OUT changed boolean)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET client_min_messages = warning AS $$
#variable_conflict use_variable
DECLARE
  known sync.source;
  place record;
  needed record;
BEGIN
  SELECT n.nspname AS schema_name, c.relname AS table_name INTO place
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = relation;
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

  PERFORM sync.capture(source_id);
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

-- Start another place for a source, to be filled: the namespace <source>--<n>. Checks are the caller's
-- (python -m pelican reindex start).
CREATE FUNCTION sync.start_reindex(
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
          AND NOT EXISTS (SELECT FROM sync.reindex r WHERE r.namespace = start_reindex.namespace);
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

-- The active place and the other change roles. `state` is what the other is from now on.
CREATE FUNCTION sync.swap_places(source_id smallint, state text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
  active sync.source;
  other sync.reindex;
BEGIN
  SELECT * INTO STRICT active FROM sync.source s WHERE s.id = source_id FOR UPDATE;
  SELECT * INTO STRICT other FROM sync.reindex r WHERE r.source_id = active.id FOR UPDATE;
  UPDATE sync.source s
  SET namespace = other.namespace, index_host = other.index_host, model = other.model,
      text_columns = other.text_columns, text_template = other.text_template,
      metadata_columns = other.metadata_columns, revision = s.revision + 1
  WHERE s.id = source_id;
  UPDATE sync.reindex r
  SET namespace = active.namespace, index_host = active.index_host, model = active.model,
      text_columns = active.text_columns, text_template = active.text_template,
      metadata_columns = active.metadata_columns, state = swap_places.state, changed_at = clock_timestamp()
  WHERE r.source_id = active.id;
END
$$;

-- One row for each source with another place: how far it is. `waiting_keys` are those of its own lane of the outbox.
CREATE VIEW sync.reindex_status AS
SELECT r.source_id, s.name, r.state, r.namespace, r.index_host, r.model, r.text_template, r.metadata_columns,
       r.enqueued, greatest(r.total, r.enqueued) AS total, d.outbox_keys AS waiting_keys,
       r.started_at, r.finished_at, r.changed_at
FROM sync.reindex r
JOIN sync.source s ON s.id = r.source_id
CROSS JOIN LATERAL sync.depth(r.source_id, 2::smallint) d;

REVOKE ALL ON FUNCTION sync.capture, sync.start_reindex, sync.swap_places FROM PUBLIC;
-- Pelican turns its pages; which place is the active one only the owner decides.
GRANT SELECT, UPDATE (cursor, enqueued, finished_at) ON sync.reindex TO aviary_pelican;
GRANT SELECT ON sync.reindex TO aviary_frontend;
GRANT SELECT ON sync.reindex_status TO aviary_pelican, aviary_frontend;
