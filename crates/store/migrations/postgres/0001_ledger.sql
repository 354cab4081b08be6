-- The ledger, shared by several gateways. Tables that SQLite has too have the same names and columns.
-- Runs as the owner of the schema. What runs later acts in one of four roles without a login; each may do
-- what its part of the work takes and nothing else.

DO $$
DECLARE
    name TEXT;
BEGIN
    FOREACH name IN ARRAY ARRAY['countersign_gateway', 'countersign_sequencer', 'countersign_reader',
                                'countersign_retention'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I NOLOGIN', name);
            EXCEPTION WHEN duplicate_object OR unique_violation THEN
                NULL; -- made for another database of the same servers in between
            END;
        END IF;
        IF NOT pg_has_role(current_user, name, 'MEMBER') THEN
            EXECUTE format('GRANT %I TO CURRENT_USER', name);
        END IF;
    END LOOP;
END $$;

GRANT USAGE ON SCHEMA countersign
    TO countersign_gateway, countersign_sequencer, countersign_reader, countersign_retention;

CREATE TABLE intake (
    tenant  TEXT   NOT NULL,
    replica TEXT   NOT NULL,
    epoch   BIGINT NOT NULL,
    seq     BIGINT NOT NULL,
    record  BYTEA  NOT NULL,
    kind    TEXT   NOT NULL,
    prev    BYTEA  NOT NULL,
    body    BYTEA  NOT NULL,
    PRIMARY KEY (tenant, replica, epoch, seq)
);
-- Erasures and legal holds are rare, and looked for at every start.
CREATE INDEX intake_privacy ON intake (tenant, kind) WHERE kind = 'erasure' OR kind = 'legal_hold';
-- And so are daily closes.
CREATE INDEX intake_close ON intake (tenant, kind) WHERE kind = 'close';

CREATE TABLE leaf (
    tenant    TEXT   NOT NULL,
    idx       BIGINT NOT NULL,
    replica   TEXT   NOT NULL,
    epoch     BIGINT NOT NULL,
    seq       BIGINT NOT NULL,
    leaf_hash BYTEA  NOT NULL,
    PRIMARY KEY (tenant, idx)
);

CREATE TABLE sealed (
    tenant     TEXT  NOT NULL,
    record     BYTEA NOT NULL,
    section    TEXT  NOT NULL,
    subject    TEXT  NOT NULL,
    period     TEXT  NOT NULL,
    nonce      BYTEA NOT NULL,
    ciphertext BYTEA NOT NULL,
    dek        BYTEA NOT NULL,
    sum        BYTEA NOT NULL,
    PRIMARY KEY (tenant, record, section)
);

-- Results kept for a while so that a repeated call gets the first answer.
CREATE TABLE replay (
    tenant     TEXT   NOT NULL,
    record     BYTEA  NOT NULL,
    expires_ms BIGINT NOT NULL,
    subject    TEXT   NOT NULL,
    period     TEXT   NOT NULL,
    nonce      BYTEA  NOT NULL,
    ciphertext BYTEA  NOT NULL,
    dek        BYTEA  NOT NULL,
    sum        BYTEA  NOT NULL,
    PRIMARY KEY (tenant, record)
);
CREATE INDEX replay_expiry ON replay (tenant, expires_ms);

-- Pseudonyms of data subjects and the keystore slots of their keys: `<pseudonym>.<slot>`, since every
-- gateway has slots of its own.
CREATE TABLE subject (
    tenant  TEXT   NOT NULL,
    subject TEXT   NOT NULL,
    slot    BIGINT NOT NULL,
    sum     BYTEA  NOT NULL,
    PRIMARY KEY (tenant, subject)
);

-- Keys and payload digests are keyed hashes: neither can be guessed from the database.
CREATE TABLE idempotency (
    tenant          TEXT  NOT NULL,
    agent           BYTEA NOT NULL,
    idempotency_key BYTEA NOT NULL,
    record          BYTEA NOT NULL,
    digest          BYTEA NOT NULL,
    status          TEXT  NOT NULL,
    sum             BYTEA NOT NULL,
    PRIMARY KEY (tenant, agent, idempotency_key)
);
CREATE UNIQUE INDEX idempotency_record ON idempotency (tenant, record);

-- Allowed calls whose outcome is not recorded ('open') or not known ('unknown'); `replica` forwards them.
CREATE TABLE open_call (
    tenant  TEXT   NOT NULL,
    record  BYTEA  NOT NULL,
    state   TEXT   NOT NULL,
    claimed BIGINT NOT NULL,
    replica TEXT   NOT NULL,
    sum     BYTEA  NOT NULL,
    PRIMARY KEY (tenant, record)
);

CREATE TABLE frontier (
    tenant TEXT   NOT NULL,
    size   BIGINT NOT NULL,
    edge   BYTEA  NOT NULL,
    root   BYTEA  NOT NULL,
    epoch  BIGINT NOT NULL,
    PRIMARY KEY (tenant)
);

CREATE TABLE checkpoint (
    tenant TEXT   NOT NULL,
    size   BIGINT NOT NULL,
    note   TEXT   NOT NULL,
    PRIMARY KEY (tenant, size)
);

-- Signatures and proofs that others add to a checkpoint after it was signed.
CREATE TABLE anchor (
    tenant TEXT   NOT NULL,
    size   BIGINT NOT NULL,
    kind   TEXT   NOT NULL,
    source TEXT   NOT NULL,
    body   BYTEA  NOT NULL,
    sum    BYTEA  NOT NULL,
    PRIMARY KEY (tenant, size, kind, source)
);

-- One row per gateway: its number gives it slots of its own in the keystore, `epoch` fences its earlier
-- connections, `instance` is the running process (empty after a clean stop or when others closed it).
CREATE TABLE stream (
    tenant   TEXT        NOT NULL,
    replica  TEXT        NOT NULL,
    number   BIGINT      NOT NULL,
    epoch    BIGINT      NOT NULL,
    seq      BIGINT      NOT NULL,
    instance TEXT        NOT NULL,
    beat     TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (tenant, replica),
    UNIQUE (tenant, number)
);

-- How far into each stream the tree reaches, and the hash of the last leaf of it.
CREATE TABLE position (
    tenant  TEXT   NOT NULL,
    replica TEXT   NOT NULL,
    epoch   BIGINT NOT NULL,
    seq     BIGINT NOT NULL,
    last    BYTEA  NOT NULL,
    PRIMARY KEY (tenant, replica)
);

-- Which process sequences; `epoch` fences its predecessors.
CREATE TABLE coord (
    tenant TEXT        NOT NULL,
    leader TEXT        NOT NULL,
    epoch  BIGINT      NOT NULL,
    beat   TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (tenant)
);

CREATE TABLE agent (
    tenant      TEXT   NOT NULL,
    agent       BYTEA  NOT NULL,
    name        TEXT   NOT NULL,
    purpose     TEXT   NOT NULL,
    owner       TEXT   NOT NULL,
    environment TEXT   NOT NULL,
    roles       TEXT   NOT NULL,
    status      TEXT   NOT NULL,
    created_ms  BIGINT NOT NULL,
    sum         BYTEA  NOT NULL,
    PRIMARY KEY (tenant, agent)
);
CREATE UNIQUE INDEX agent_name ON agent (tenant, name);

CREATE TABLE api_key (
    tenant     TEXT   NOT NULL,
    key_id     TEXT   NOT NULL,
    agent      BYTEA  NOT NULL,
    hash       BYTEA  NOT NULL,
    created_ms BIGINT NOT NULL,
    expires_ms BIGINT NOT NULL,
    sum        BYTEA  NOT NULL,
    PRIMARY KEY (tenant, key_id),
    FOREIGN KEY (tenant, agent) REFERENCES agent (tenant, agent)
);

CREATE TABLE bundle (
    tenant  TEXT  NOT NULL,
    hash    TEXT  NOT NULL,
    path    TEXT  NOT NULL,
    content BYTEA NOT NULL,
    sum     BYTEA NOT NULL,
    PRIMARY KEY (tenant, hash, path)
);

CREATE TABLE active_bundle (
    tenant TEXT  NOT NULL,
    hash   TEXT  NOT NULL,
    sum    BYTEA NOT NULL,
    PRIMARY KEY (tenant)
);

-- Grows with every change of agents and keys, so that every gateway hears of it.
CREATE TABLE registry_version (
    tenant  TEXT   NOT NULL,
    version BIGINT NOT NULL,
    PRIMARY KEY (tenant)
);

CREATE FUNCTION append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
END $$;

DO $$
DECLARE
    name TEXT;
BEGIN
    FOREACH name IN ARRAY ARRAY['intake', 'leaf', 'checkpoint'] LOOP
        EXECUTE format('CREATE TRIGGER %I BEFORE UPDATE OR DELETE ON %I FOR EACH ROW
                        EXECUTE FUNCTION append_only()', name || '_append_only', name);
        EXECUTE format('CREATE TRIGGER %I BEFORE TRUNCATE ON %I FOR EACH STATEMENT
                        EXECUTE FUNCTION append_only()', name || '_no_truncate', name);
    END LOOP;
    -- A connection sees the rows of the tenant that it names, the owner of the tables too.
    FOR name IN SELECT tablename FROM pg_tables
                 WHERE schemaname = 'countersign' AND tablename <> 'schema_version' LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format('CREATE POLICY tenant ON %I
                        USING (tenant = current_setting(''countersign.tenant'', true))', name);
        EXECUTE format('GRANT SELECT ON %I
                        TO countersign_gateway, countersign_sequencer, countersign_reader', name);
    END LOOP;
END $$;

GRANT SELECT ON schema_version
    TO countersign_gateway, countersign_sequencer, countersign_reader, countersign_retention;

GRANT INSERT ON intake, sealed, replay, subject, idempotency, open_call, stream, agent, api_key, bundle,
    active_bundle, registry_version TO countersign_gateway;
GRANT UPDATE ON idempotency, replay, stream, agent, api_key, active_bundle, registry_version TO countersign_gateway;
GRANT DELETE ON idempotency, open_call, replay TO countersign_gateway;

GRANT INSERT ON leaf, frontier, position, checkpoint, anchor, coord TO countersign_sequencer;
GRANT UPDATE ON frontier, position, anchor, coord TO countersign_sequencer;

GRANT SELECT, DELETE ON sealed, replay, subject TO countersign_retention;
