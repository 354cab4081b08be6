-- Daily closes are rare, and looked for at every start.
CREATE INDEX intake_close ON intake (kind) WHERE kind = 'close';
