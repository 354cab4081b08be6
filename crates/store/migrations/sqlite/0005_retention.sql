-- Changes of configuration are rare; the schedule of retention is looked for among them.
CREATE INDEX intake_change ON intake (kind) WHERE kind = 'change';
