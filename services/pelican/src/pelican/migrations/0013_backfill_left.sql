-- As before, and how many seconds a backfill will take from now on, if it goes on as it did since it was asked for: null
-- before the first key has been shipped, and when nothing of it is left.
CREATE OR REPLACE VIEW sync.status AS
SELECT s.id AS source_id, s.name, s.schema_name, s.table_name, s.namespace,
       live.outbox_rows + filling.outbox_rows AS outbox_rows,
       live.outbox_keys AS live_keys,
       filling.outbox_keys AS backfill_keys,
       live.is_estimate OR filling.is_estimate AS is_estimate,
       least(live.oldest_enqueued_at, filling.oldest_enqueued_at) AS oldest_enqueued_at,
       b.enqueued AS backfill_enqueued, b.total AS backfill_total,
       b.started_at AS backfill_started_at, b.finished_at AS backfill_finished_at,
       CASE WHEN b.enqueued > filling.outbox_keys AND (b.finished_at IS NULL OR filling.outbox_keys > 0)
            THEN extract(epoch FROM clock_timestamp() - b.started_at)
                 * (greatest(b.total, b.enqueued) - b.enqueued + filling.outbox_keys) / (b.enqueued - filling.outbox_keys)
       END::float8 AS backfill_seconds_left
FROM sync.source s
CROSS JOIN LATERAL sync.depth(s.id, 0::smallint) live
CROSS JOIN LATERAL sync.depth(s.id, 1::smallint) filling
LEFT JOIN sync.backfill b ON b.source_id = s.id;
