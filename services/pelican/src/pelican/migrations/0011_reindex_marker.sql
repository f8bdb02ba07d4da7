-- `marker` names the vectors by which a command sees that all changes sent so far have arrived in the other place (see
-- pelican.arrival). It is written down before they are, so that those of a command that was killed are found again.
ALTER TABLE sync.reindex ADD COLUMN marker text;
