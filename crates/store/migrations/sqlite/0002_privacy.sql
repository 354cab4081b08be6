-- Erasures and legal holds are rare, and looked for at every start.
CREATE INDEX intake_privacy ON intake (kind) WHERE kind = 'erasure' OR kind = 'legal_hold';
