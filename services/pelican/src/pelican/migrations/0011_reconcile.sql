-- Progress of `python -m pelican reconcile`, one row a source: what was asked, how far it is, what it counted.
-- `cursor` is the last key's texts while it reads rows, and the token of the next page while it reads vectors.
CREATE TABLE sync.reconcile (
  source_id   smallint PRIMARY KEY REFERENCES sync.source ON DELETE CASCADE,
  question    text NOT NULL,
  stage       text NOT NULL DEFAULT 'rows', -- rows, vectors, settle, repair, done
  cursor      text[],
  rows        bigint NOT NULL DEFAULT 0,
  vectors     bigint NOT NULL DEFAULT 0,
  found       jsonb NOT NULL DEFAULT '{}', -- kind → count, once it has settled
  started_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
  finished_at timestamptz
);

-- Differences between table and index as seen so far, and what became of them. In a table and not in memory: however
-- many they are, a run is small and can be killed. `key` is null where nobody can tell it from the vector. `direct`:
-- no row, not even a missing one, stands for the vector, so that shipping the key would not delete it.
CREATE TABLE sync.drift (
  source_id smallint NOT NULL REFERENCES sync.source ON DELETE CASCADE,
  id        text COLLATE "C" NOT NULL,
  key       text COLLATE "C",
  shard     smallint GENERATED ALWAYS AS ((hashtextextended(key, 0) & 15)::smallint) STORED,
  kind      text NOT NULL, -- missing, stale, orphaned
  direct    boolean NOT NULL,
  seen      text NOT NULL, -- digest of row and vectors
  version   double precision NOT NULL, -- of the vector; 0 when it has none
  state     text NOT NULL DEFAULT 'seen', -- seen, still (not on its way when last looked), drift, sent
  PRIMARY KEY (source_id, id)
);

GRANT SELECT, INSERT, UPDATE ON sync.reconcile TO aviary_pelican;
GRANT SELECT, INSERT, UPDATE, DELETE ON sync.drift TO aviary_pelican;
