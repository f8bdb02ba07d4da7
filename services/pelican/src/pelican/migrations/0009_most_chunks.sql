-- How many vectors a row of the source may have, at most: the largest guess that any message was sent with. It never goes
-- down, because Emu deletes a row's surplus vectors by it (1: there are none).
ALTER TABLE sync.source ADD COLUMN most_chunks smallint NOT NULL DEFAULT 1;
GRANT UPDATE (most_chunks) ON sync.source TO aviary_pelican;
