-- One row a watched table. `revision` grows whenever the mapping changes, so that a running Pelican notices it in the
-- same snapshot as the rows it reads.
CREATE TABLE sync.source (
  id               smallint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  name             text NOT NULL UNIQUE,
  schema_name      text NOT NULL,
  table_name       text NOT NULL,
  key_columns      text[] NOT NULL,
  text_columns     text[] NOT NULL,
  text_template    text NOT NULL,
  metadata_columns text[] NOT NULL,
  namespace        text NOT NULL UNIQUE,
  revision         integer NOT NULL DEFAULT 1,
  created_at       timestamptz NOT NULL DEFAULT now(),
  UNIQUE (schema_name, table_name)
);

-- What changed and was not shipped yet. Append-only for writers, so that none of them ever waits for Pelican or for
-- another writer. A row holds many keys: one row a statement, shard and some 200 keys.
--
-- The primary key is the only index (a second one would cost every writer) and is what Pelican's questions need: which
-- shards have work is a loose scan over its first three columns, the next rows of a shard are a range of it. For the
-- same reason it has no check constraints: only functions of ours write here.
CREATE TABLE sync.outbox (
  seq            bigint GENERATED ALWAYS AS IDENTITY,
  source_id      smallint NOT NULL,
  shard          smallint NOT NULL, -- 0 to 15
  lane           smallint NOT NULL DEFAULT 0, -- 0 live, 1 backfill
  keys           text[] NOT NULL,
  key_count      integer NOT NULL, -- of `keys`, so that counting never reads the arrays
  text_unchanged boolean NOT NULL DEFAULT false,
  enqueued_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (lane, source_id, shard, seq)
) WITH (
  -- 200 keys stay in the row, and compressing them would cost a COPY more than it saves.
  toast_tuple_target = 8160,
  -- A queue turns over its whole content again and again: a fixed threshold, no pauses; and giving pages back to the
  -- file system would take a lock that writers wait for.
  autovacuum_vacuum_scale_factor = 0,
  autovacuum_vacuum_threshold = 2000,
  autovacuum_vacuum_insert_scale_factor = 0,
  autovacuum_vacuum_insert_threshold = 20000,
  autovacuum_vacuum_cost_delay = 0,
  vacuum_truncate = false,
  toast.autovacuum_vacuum_scale_factor = 0,
  toast.autovacuum_vacuum_threshold = 2000,
  toast.autovacuum_vacuum_cost_delay = 0,
  toast.vacuum_truncate = false
);
ALTER TABLE sync.outbox ALTER COLUMN keys SET STORAGE EXTERNAL;

-- Versions grow with time across a restored backup too: they start at the current Unix milliseconds, and Pelican lifts
-- them to the clock when it starts.
CREATE SEQUENCE sync.version AS bigint;
SELECT setval('sync.version', (extract(epoch FROM clock_timestamp()) * 1000)::bigint);

-- 1 while Pelican is busy anyway and looks by itself every few milliseconds: then writers do not NOTIFY, because commits
-- that do wait for each other, one flush to disk at a time. A sequence, because it is read and set outside transactions.
CREATE SEQUENCE sync.quiet AS smallint MINVALUE 0 MAXVALUE 1;
SELECT setval('sync.quiet', 0);

-- The newest claim of each shard, written before its messages are sent and cleared (messages = 0) together with its
-- outbox rows. What is not cleared was given up half-way: its messages may still be on their way to the queue.
CREATE TABLE sync.claim (
  source_id  smallint NOT NULL,
  shard      smallint NOT NULL,
  version    bigint NOT NULL DEFAULT 0,
  messages   integer NOT NULL DEFAULT 0,
  expires_at timestamptz NOT NULL DEFAULT '-infinity',
  PRIMARY KEY (source_id, shard)
) WITH (fillfactor = 50);

-- Progress of paging through a watched table by key. `cursor` is the last key enqueued, as texts; `total` an estimate.
CREATE TABLE sync.backfill (
  source_id   smallint PRIMARY KEY REFERENCES sync.source ON DELETE CASCADE,
  cursor      text[],
  enqueued    bigint NOT NULL DEFAULT 0,
  total       bigint NOT NULL DEFAULT 0,
  started_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
  finished_at timestamptz
);

GRANT SELECT ON sync.source TO aviary_pelican, aviary_frontend;
GRANT SELECT, INSERT, DELETE ON sync.outbox TO aviary_pelican;
GRANT SELECT, UPDATE ON sync.claim TO aviary_pelican;
GRANT SELECT, INSERT, UPDATE ON sync.backfill TO aviary_pelican;
GRANT SELECT, UPDATE ON SEQUENCE sync.version, sync.quiet TO aviary_pelican;
