-- What waits in one lane of one source: exact up to 10,000 outbox rows, an estimate beyond, so that asking stays cheap.
CREATE FUNCTION sync.depth(source_id smallint, lane smallint,
  OUT outbox_rows bigint, OUT outbox_keys bigint, OUT is_estimate boolean, OUT oldest_enqueued_at timestamptz)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET enable_bitmapscan = off AS $$
#variable_conflict use_column
BEGIN
  SELECT count(*), coalesce(sum(o.key_count), 0), count(*) = 10000
  INTO outbox_rows, outbox_keys, is_estimate
  FROM (SELECT key_count FROM sync.outbox WHERE source_id = depth.source_id AND lane = depth.lane LIMIT 10000) o;
  IF is_estimate THEN
    outbox_keys := outbox_keys * greatest(pg_stat_get_live_tuples('sync.outbox'::regclass), outbox_rows) / outbox_rows;
    outbox_rows := greatest(pg_stat_get_live_tuples('sync.outbox'::regclass), outbox_rows);
  END IF;
  SELECT min(head.enqueued_at) INTO oldest_enqueued_at
  FROM generate_series(0, 15) AS s(shard), LATERAL (
    SELECT o.enqueued_at FROM sync.outbox o
    WHERE o.lane = depth.lane AND o.source_id = depth.source_id AND o.shard = s.shard ORDER BY o.seq LIMIT 1) head;
END
$$;

-- One row a source: what waits in each lane, since when, and how far its backfill has come (null: never asked for).
CREATE VIEW sync.status AS
SELECT s.id AS source_id, s.name, s.schema_name, s.table_name, s.namespace,
       live.outbox_rows + filling.outbox_rows AS outbox_rows,
       live.outbox_keys AS live_keys,
       filling.outbox_keys AS backfill_keys,
       live.is_estimate OR filling.is_estimate AS is_estimate,
       least(live.oldest_enqueued_at, filling.oldest_enqueued_at) AS oldest_enqueued_at,
       b.enqueued AS backfill_enqueued, b.total AS backfill_total,
       b.started_at AS backfill_started_at, b.finished_at AS backfill_finished_at
FROM sync.source s
CROSS JOIN LATERAL sync.depth(s.id, 0::smallint) live
CROSS JOIN LATERAL sync.depth(s.id, 1::smallint) filling
LEFT JOIN sync.backfill b ON b.source_id = s.id;

-- Ask for every row of a source to be sent again; one that is under way starts anew. Pelican does it in the background.
CREATE FUNCTION sync.request_backfill(source_id smallint) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
  INSERT INTO sync.backfill AS b (source_id, total)
  SELECT s.id, greatest(c.reltuples, pg_stat_get_live_tuples(c.oid), 0)::bigint
  FROM sync.source s
  JOIN pg_namespace n ON n.nspname = s.schema_name
  JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = s.table_name
  WHERE s.id = request_backfill.source_id
  ON CONFLICT (source_id) DO UPDATE
  SET cursor = NULL, enqueued = 0, total = excluded.total, started_at = clock_timestamp(), finished_at = NULL;
  SELECT pg_notify('aviary', '');
$$;

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA sync FROM PUBLIC;
GRANT EXECUTE ON FUNCTION sync.depth, sync.request_backfill, sync.key_expression, sync.enqueue_code TO aviary_pelican;
GRANT EXECUTE ON FUNCTION sync.depth TO aviary_frontend;
GRANT SELECT ON sync.status TO aviary_pelican, aviary_frontend;
