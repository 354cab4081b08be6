-- The ledger. Bodies are stored once, in `intake`; the tree is an order over them, in `leaf`.
-- `sum` guards rows that no hash of the ledger covers: 16 bytes of a SHA-256 over the hashes of the other
-- columns in their order, then 2 bytes of each of those.

CREATE TABLE intake (
    tenant  TEXT    NOT NULL,
    replica TEXT    NOT NULL,
    epoch   INTEGER NOT NULL,
    seq     INTEGER NOT NULL,
    record  BLOB    NOT NULL,
    kind    TEXT    NOT NULL,
    prev    BLOB    NOT NULL,
    body    BLOB    NOT NULL,
    PRIMARY KEY (tenant, replica, epoch, seq)
) STRICT;

CREATE TABLE leaf (
    tenant    TEXT    NOT NULL,
    idx       INTEGER NOT NULL,
    replica   TEXT    NOT NULL,
    epoch     INTEGER NOT NULL,
    seq       INTEGER NOT NULL,
    leaf_hash BLOB    NOT NULL,
    PRIMARY KEY (tenant, idx)
) STRICT, WITHOUT ROWID;

CREATE TABLE sealed (
    tenant      TEXT NOT NULL,
    record      BLOB NOT NULL,
    section     TEXT NOT NULL,
    subject     TEXT NOT NULL,
    period      TEXT NOT NULL,
    nonce       BLOB NOT NULL,
    ciphertext  BLOB NOT NULL,
    dek        BLOB NOT NULL,
    sum         BLOB NOT NULL,
    PRIMARY KEY (tenant, record, section)
) STRICT;

-- Results kept for a while so that a repeated call gets the first answer.
CREATE TABLE replay (
    tenant      TEXT    NOT NULL,
    record      BLOB    NOT NULL,
    expires_ms  INTEGER NOT NULL,
    subject     TEXT    NOT NULL,
    period      TEXT    NOT NULL,
    nonce       BLOB    NOT NULL,
    ciphertext  BLOB    NOT NULL,
    dek         BLOB    NOT NULL,
    sum         BLOB    NOT NULL,
    PRIMARY KEY (tenant, record)
) STRICT;
CREATE INDEX replay_expiry ON replay (tenant, expires_ms);

-- Pseudonyms of data subjects and the keystore slots of their keys.
CREATE TABLE subject (
    tenant  TEXT    NOT NULL,
    subject TEXT    NOT NULL,
    slot    INTEGER NOT NULL,
    sum     BLOB    NOT NULL,
    PRIMARY KEY (tenant, subject)
) STRICT, WITHOUT ROWID;

-- Keys and payload digests are keyed hashes: neither can be guessed from the database.
CREATE TABLE idempotency (
    tenant          TEXT NOT NULL,
    agent           BLOB NOT NULL,
    idempotency_key BLOB NOT NULL,
    record          BLOB NOT NULL,
    digest          BLOB NOT NULL,
    status          TEXT NOT NULL,
    sum             BLOB NOT NULL,
    PRIMARY KEY (tenant, agent, idempotency_key)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX idempotency_record ON idempotency (tenant, record);

-- Allowed calls whose outcome is not recorded ('open') or not known ('unknown').
CREATE TABLE open_call (
    tenant  TEXT    NOT NULL,
    record  BLOB    NOT NULL,
    state   TEXT    NOT NULL,
    claimed INTEGER NOT NULL,
    sum     BLOB    NOT NULL,
    PRIMARY KEY (tenant, record)
) STRICT, WITHOUT ROWID;

CREATE TABLE frontier (
    tenant TEXT    NOT NULL,
    size   INTEGER NOT NULL,
    edge   BLOB    NOT NULL,
    root   BLOB    NOT NULL,
    epoch  INTEGER NOT NULL,
    PRIMARY KEY (tenant)
) STRICT, WITHOUT ROWID;

CREATE TABLE checkpoint (
    tenant TEXT    NOT NULL,
    size   INTEGER NOT NULL,
    note   TEXT    NOT NULL,
    PRIMARY KEY (tenant, size)
) STRICT, WITHOUT ROWID;

-- Signatures and proofs that others add to a checkpoint after it was signed.
CREATE TABLE anchor (
    tenant TEXT    NOT NULL,
    size   INTEGER NOT NULL,
    kind   TEXT    NOT NULL,
    source TEXT    NOT NULL,
    body   BLOB    NOT NULL,
    sum    BLOB    NOT NULL,
    PRIMARY KEY (tenant, size, kind, source)
) STRICT, WITHOUT ROWID;

-- `leader` is the running replica, empty after a clean stop; `epoch` fences writers and numbers streams.
CREATE TABLE coord (
    tenant TEXT    NOT NULL,
    leader TEXT    NOT NULL,
    epoch  INTEGER NOT NULL,
    sum    BLOB    NOT NULL,
    PRIMARY KEY (tenant)
) STRICT, WITHOUT ROWID;

CREATE TABLE agent (
    tenant      TEXT    NOT NULL,
    agent       BLOB    NOT NULL,
    name        TEXT    NOT NULL,
    purpose     TEXT    NOT NULL,
    owner       TEXT    NOT NULL,
    environment TEXT    NOT NULL,
    roles       TEXT    NOT NULL,
    status      TEXT    NOT NULL,
    created_ms  INTEGER NOT NULL,
    sum         BLOB    NOT NULL,
    PRIMARY KEY (tenant, agent)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX agent_name ON agent (tenant, name);

CREATE TABLE api_key (
    tenant     TEXT    NOT NULL,
    key_id     TEXT    NOT NULL,
    agent      BLOB    NOT NULL,
    hash       BLOB    NOT NULL,
    created_ms INTEGER NOT NULL,
    expires_ms INTEGER NOT NULL,
    sum        BLOB    NOT NULL,
    PRIMARY KEY (tenant, key_id),
    FOREIGN KEY (tenant, agent) REFERENCES agent (tenant, agent)
) STRICT, WITHOUT ROWID;

CREATE TABLE bundle (
    tenant  TEXT NOT NULL,
    hash    TEXT NOT NULL,
    path    TEXT NOT NULL,
    content BLOB NOT NULL,
    sum     BLOB NOT NULL,
    PRIMARY KEY (tenant, hash, path)
) STRICT;

CREATE TABLE active_bundle (
    tenant TEXT NOT NULL,
    hash   TEXT NOT NULL,
    sum    BLOB NOT NULL,
    PRIMARY KEY (tenant)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER intake_no_update BEFORE UPDATE ON intake BEGIN SELECT RAISE(ABORT, 'intake is append-only'); END;
CREATE TRIGGER intake_no_delete BEFORE DELETE ON intake BEGIN SELECT RAISE(ABORT, 'intake is append-only'); END;
CREATE TRIGGER leaf_no_update BEFORE UPDATE ON leaf BEGIN SELECT RAISE(ABORT, 'leaf is append-only'); END;
CREATE TRIGGER leaf_no_delete BEFORE DELETE ON leaf BEGIN SELECT RAISE(ABORT, 'leaf is append-only'); END;
CREATE TRIGGER checkpoint_no_update BEFORE UPDATE ON checkpoint BEGIN SELECT RAISE(ABORT, 'checkpoint is append-only'); END;
CREATE TRIGGER checkpoint_no_delete BEFORE DELETE ON checkpoint BEGIN SELECT RAISE(ABORT, 'checkpoint is append-only'); END;
