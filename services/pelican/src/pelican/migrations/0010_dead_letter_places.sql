-- The index that a dead letter's change was for; '' is the configured one.
ALTER TABLE sync.dead_letter ADD COLUMN index_host text NOT NULL DEFAULT '';
