-- Whoever looks after dead letters: may have keys sent again, and nothing else.
DO $$
BEGIN
  IF to_regrole('aviary_operator') IS NULL THEN
    BEGIN
      CREATE ROLE aviary_operator LOGIN;
    EXCEPTION WHEN duplicate_object OR unique_violation THEN
      NULL;
    END;
  END IF;
  IF to_regrole('rds_iam') IS NOT NULL AND NOT pg_has_role('aviary_operator', 'rds_iam', 'member') THEN
    GRANT rds_iam TO aviary_operator;
  END IF;
  EXECUTE format('GRANT CONNECT ON DATABASE %I TO aviary_operator', current_database());
END
$$;
GRANT USAGE ON SCHEMA sync TO aviary_operator;

-- Have Pelican send the present state of some rows again: as many keys as are enqueued. A key without a row is sent as
-- a delete, so it does no harm to name one too many.
CREATE FUNCTION sync.enqueue(source_name text, keys text[]) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  known sync.source;
  distinct_keys text[] := ARRAY(SELECT DISTINCT k FROM unnest(enqueue.keys) AS k WHERE k <> '');
BEGIN
  SELECT * INTO known FROM sync.source s WHERE s.name = enqueue.source_name;
  IF known.id IS NULL THEN
    RAISE no_data_found USING MESSAGE = format('no table is watched under the name %L', enqueue.source_name);
  END IF;
  EXECUTE sync.enqueue_code(known.id, 'SELECT k AS key, false AS text_unchanged FROM unnest($1) AS k') USING distinct_keys;
  PERFORM pg_notify('aviary', '');
  RETURN cardinality(distinct_keys);
END
$$;

-- Those of some keys that have no row now, or one without any text: what the index should not hold. Nothing is said of a
-- table that is not watched, not there, or has lost a column. Keys print here as they do where they are captured.
CREATE FUNCTION sync.absent(source_name text, keys text[]) RETURNS SETOF text
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET row_security = off
SET timezone = 'UTC' SET datestyle = 'ISO, YMD' SET intervalstyle = 'postgres' SET extra_float_digits = 1
SET bytea_output = 'hex' AS $$
DECLARE
  known sync.source;
  relation regclass;
  matches text;
  has_text text;
BEGIN
  SELECT * INTO known FROM sync.source s WHERE s.name = absent.source_name;
  IF known.id IS NOT NULL THEN
    relation := to_regclass(format('%I.%I', known.schema_name, known.table_name));
  END IF;
  IF relation IS NULL THEN
    RETURN;
  END IF;
  -- A key's text is cast back to the column's type, so that the unique index finds the row.
  SELECT string_agg(format('r.%I = CASE WHEN pg_input_is_valid(p.part[%s], %L) THEN p.part[%s]::%s END',
                           c, n, t.name, n, t.name), ' AND ')
  INTO matches
  FROM unnest(known.key_columns) WITH ORDINALITY AS k(c, n)
  CROSS JOIN LATERAL (SELECT format_type(a.atttypid, a.atttypmod) AS name FROM pg_attribute a
                      WHERE a.attrelid = relation AND a.attname = k.c AND NOT a.attisdropped) t;
  SELECT string_agg(format('r.%I::text ~ ''\S''', c), ' OR ') INTO has_text FROM unnest(known.text_columns) AS c;
  RETURN QUERY EXECUTE format(
    'SELECT k.key FROM unnest($1) AS k(key)
     CROSS JOIN LATERAL (SELECT CASE WHEN %L::boolean THEN ARRAY[k.key] WHEN NOT pg_input_is_valid(k.key, ''json'') THEN NULL
                         WHEN json_typeof(k.key::json) = ''array''
                         THEN ARRAY(SELECT value FROM json_array_elements_text(k.key::json)) END AS part) p
     WHERE NOT EXISTS (SELECT FROM ONLY %s r WHERE %s AND %s = k.key AND (%s))',
    cardinality(known.key_columns) = 1, relation, matches, sync.key_expression(known.key_columns), has_text)
  USING absent.keys;
EXCEPTION WHEN undefined_column THEN
  RETURN;
END
$$;

-- What is in the dead letter queue, as Pelican last saw it: for pages, which must not touch the queue. `keys` and
-- `versions` belong together; a version is 0 where it is not known.
CREATE TABLE sync.dead_letter (
  id        text PRIMARY KEY,
  kind      text NOT NULL,
  reason    text NOT NULL,
  source    text NOT NULL,
  namespace text NOT NULL,
  keys      text[] NOT NULL,
  versions  bigint[] NOT NULL,
  failed_at timestamptz NOT NULL
);

REVOKE ALL ON FUNCTION sync.enqueue, sync.absent FROM PUBLIC;
GRANT EXECUTE ON FUNCTION sync.enqueue, sync.absent TO aviary_operator;
GRANT EXECUTE ON FUNCTION sync.absent TO aviary_frontend;
GRANT SELECT, INSERT, DELETE ON sync.dead_letter TO aviary_pelican;
GRANT SELECT ON sync.dead_letter TO aviary_frontend;
