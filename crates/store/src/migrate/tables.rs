//! The tables that move, column by column.

/// A table of both databases.
pub(super) struct Table {
    pub(super) name: &'static str,
    /// Counts a tenant's rows, in either.
    pub(super) count: &'static str,
    /// Reads its rows from SQLite, which has one tenant.
    pub(super) read: &'static str,
    /// Reads the same columns of a tenant from PostgreSQL; a superuser sees all tenants.
    pub(super) back: &'static str,
    /// Writes rows to PostgreSQL, from an array for each column that `read` gives.
    pub(super) write: &'static str,
    /// Whether `read` gives the subject another name: then the last column, the row's sum, is made anew.
    pub(super) renamed: bool,
}

/// The tables, those first that others refer to.
///
/// Gateways that share a log have keys of their own for each person, so there every name of a subject
/// carries the slot of its key; with one gateway only later names do.
pub(super) const TABLES: &[Table] = &[
    Table {
        name: "intake",
        count: "SELECT count(*) FROM intake WHERE tenant = $1",
        read: "SELECT tenant, replica, epoch, seq, record, kind, prev, body FROM intake ORDER BY rowid",
        back: "SELECT tenant, replica, epoch, seq, record, kind, prev, body
                 FROM intake WHERE tenant = $1",
        write: "INSERT INTO intake (tenant, replica, epoch, seq, record, kind, prev, body)
                SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::bytea[],
                                     $6::text[], $7::bytea[], $8::bytea[])",
        renamed: false,
    },
    Table {
        name: "leaf",
        count: "SELECT count(*) FROM leaf WHERE tenant = $1",
        read: "SELECT tenant, idx, replica, epoch, seq, leaf_hash FROM leaf ORDER BY tenant, idx",
        back: "SELECT tenant, idx, replica, epoch, seq, leaf_hash FROM leaf WHERE tenant = $1",
        write: "INSERT INTO leaf (tenant, idx, replica, epoch, seq, leaf_hash)
                SELECT * FROM unnest($1::text[], $2::bigint[], $3::text[], $4::bigint[], $5::bigint[],
                                     $6::bytea[])",
        renamed: false,
    },
    Table {
        name: "frontier",
        count: "SELECT count(*) FROM frontier WHERE tenant = $1",
        read: "SELECT tenant, size, edge, root, epoch FROM frontier",
        back: "SELECT tenant, size, edge, root, epoch FROM frontier WHERE tenant = $1",
        write: "INSERT INTO frontier (tenant, size, edge, root, epoch)
                SELECT * FROM unnest($1::text[], $2::bigint[], $3::bytea[], $4::bytea[], $5::bigint[])",
        renamed: false,
    },
    Table {
        name: "checkpoint",
        count: "SELECT count(*) FROM checkpoint WHERE tenant = $1",
        read: "SELECT tenant, size, note FROM checkpoint ORDER BY tenant, size",
        back: "SELECT tenant, size, note FROM checkpoint WHERE tenant = $1",
        write: "INSERT INTO checkpoint (tenant, size, note)
                SELECT * FROM unnest($1::text[], $2::bigint[], $3::text[])",
        renamed: false,
    },
    Table {
        name: "anchor",
        count: "SELECT count(*) FROM anchor WHERE tenant = $1",
        read: "SELECT tenant, size, kind, source, body, sum FROM anchor",
        back: "SELECT tenant, size, kind, source, body, sum FROM anchor WHERE tenant = $1",
        write: "INSERT INTO anchor (tenant, size, kind, source, body, sum)
                SELECT * FROM unnest($1::text[], $2::bigint[], $3::text[], $4::text[], $5::bytea[],
                                     $6::bytea[])",
        renamed: false,
    },
    Table {
        name: "subject",
        count: "SELECT count(*) FROM subject WHERE tenant = $1",
        read: "SELECT tenant, CASE WHEN instr(subject, '.') = 0 THEN subject || '.' || slot ELSE subject END,
                      slot, sum FROM subject",
        back: "SELECT tenant, subject, slot, sum FROM subject WHERE tenant = $1",
        write: "INSERT INTO subject (tenant, subject, slot, sum)
                SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bytea[])",
        renamed: true,
    },
    Table {
        name: "sealed",
        count: "SELECT count(*) FROM sealed WHERE tenant = $1",
        read: "SELECT d.tenant, d.record, d.section,
                      CASE WHEN instr(d.subject, '.') = 0 AND s.slot IS NOT NULL
                           THEN d.subject || '.' || s.slot ELSE d.subject END,
                      d.period, d.nonce, d.ciphertext, d.dek, d.sum
                 FROM sealed d LEFT JOIN subject s ON s.tenant = d.tenant AND s.subject = d.subject
                ORDER BY d.rowid",
        back: "SELECT tenant, record, section, subject, period, nonce, ciphertext, dek, sum
                 FROM sealed WHERE tenant = $1",
        write: "INSERT INTO sealed
                       (tenant, record, section, subject, period, nonce, ciphertext, dek, sum)
                SELECT * FROM unnest($1::text[], $2::bytea[], $3::text[], $4::text[], $5::text[],
                                     $6::bytea[], $7::bytea[], $8::bytea[], $9::bytea[])",
        renamed: true,
    },
    Table {
        name: "replay",
        count: "SELECT count(*) FROM replay WHERE tenant = $1",
        read: "SELECT d.tenant, d.record, d.expires_ms,
                      CASE WHEN instr(d.subject, '.') = 0 AND s.slot IS NOT NULL
                           THEN d.subject || '.' || s.slot ELSE d.subject END,
                      d.period, d.nonce, d.ciphertext, d.dek, d.sum
                 FROM replay d LEFT JOIN subject s ON s.tenant = d.tenant AND s.subject = d.subject
                ORDER BY d.rowid",
        back: "SELECT tenant, record, expires_ms, subject, period, nonce, ciphertext, dek, sum
                 FROM replay WHERE tenant = $1",
        write: "INSERT INTO replay
                       (tenant, record, expires_ms, subject, period, nonce, ciphertext, dek, sum)
                SELECT * FROM unnest($1::text[], $2::bytea[], $3::bigint[], $4::text[], $5::text[],
                                     $6::bytea[], $7::bytea[], $8::bytea[], $9::bytea[])",
        renamed: true,
    },
    Table {
        name: "idempotency",
        count: "SELECT count(*) FROM idempotency WHERE tenant = $1",
        read: "SELECT tenant, agent, idempotency_key, record, digest, status, sum FROM idempotency",
        back: "SELECT tenant, agent, idempotency_key, record, digest, status, sum
                 FROM idempotency WHERE tenant = $1",
        write: "INSERT INTO idempotency
                       (tenant, agent, idempotency_key, record, digest, status, sum)
                SELECT * FROM unnest($1::text[], $2::bytea[], $3::bytea[], $4::bytea[], $5::bytea[],
                                     $6::text[], $7::bytea[])",
        renamed: false,
    },
    Table {
        name: "open_call",
        count: "SELECT count(*) FROM open_call WHERE tenant = $1",
        read: "SELECT tenant, record, state, claimed, sum FROM open_call",
        back: "SELECT tenant, record, state, claimed, sum FROM open_call WHERE tenant = $1",
        // The gateway that goes on with the ledger closes what the stopped one left open.
        write: "INSERT INTO open_call (tenant, record, state, claimed, sum, replica)
                SELECT c.*, s.replica
                  FROM unnest($1::text[], $2::bytea[], $3::text[], $4::bigint[], $5::bytea[])
                       AS c (tenant, record, state, claimed, sum)
                  JOIN stream s ON s.tenant = c.tenant AND s.number = 0",
        renamed: false,
    },
    Table {
        name: "agent",
        count: "SELECT count(*) FROM agent WHERE tenant = $1",
        read: "SELECT tenant, agent, name, purpose, owner, environment, roles, status, created_ms, sum
                 FROM agent",
        back: "SELECT tenant, agent, name, purpose, owner, environment, roles, status, created_ms, sum
                 FROM agent WHERE tenant = $1",
        write: "INSERT INTO agent (tenant, agent, name, purpose, owner, environment, roles, status,
                                   created_ms, sum)
                SELECT * FROM unnest($1::text[], $2::bytea[], $3::text[], $4::text[], $5::text[],
                                     $6::text[], $7::text[], $8::text[], $9::bigint[], $10::bytea[])",
        renamed: false,
    },
    Table {
        name: "api_key",
        count: "SELECT count(*) FROM api_key WHERE tenant = $1",
        read: "SELECT tenant, key_id, agent, hash, created_ms, expires_ms, sum FROM api_key",
        back: "SELECT tenant, key_id, agent, hash, created_ms, expires_ms, sum
                 FROM api_key WHERE tenant = $1",
        write: "INSERT INTO api_key (tenant, key_id, agent, hash, created_ms, expires_ms, sum)
                SELECT * FROM unnest($1::text[], $2::text[], $3::bytea[], $4::bytea[], $5::bigint[],
                                     $6::bigint[], $7::bytea[])",
        renamed: false,
    },
    Table {
        name: "bundle",
        count: "SELECT count(*) FROM bundle WHERE tenant = $1",
        read: "SELECT tenant, hash, path, content, sum FROM bundle",
        back: "SELECT tenant, hash, path, content, sum FROM bundle WHERE tenant = $1",
        write: "INSERT INTO bundle (tenant, hash, path, content, sum)
                SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bytea[], $5::bytea[])",
        renamed: false,
    },
    Table {
        name: "active_bundle",
        count: "SELECT count(*) FROM active_bundle WHERE tenant = $1",
        read: "SELECT tenant, hash, sum FROM active_bundle",
        back: "SELECT tenant, hash, sum FROM active_bundle WHERE tenant = $1",
        write: "INSERT INTO active_bundle (tenant, hash, sum)
                SELECT * FROM unnest($1::text[], $2::text[], $3::bytea[])",
        renamed: false,
    },
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use sqlx::{Connection as _, SqliteConnection};

    use super::*;
    use crate::db::sqlite::MIGRATIONS;

    #[tokio::test]
    async fn every_column_of_every_table_moves() {
        let mut conn = SqliteConnection::connect("sqlite::memory:").await.unwrap();
        for (_, sql) in MIGRATIONS {
            sqlx::raw_sql(*sql).execute(&mut conn).await.unwrap();
        }
        let sql =
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'";
        let there: Vec<String> = sqlx::query_scalar(sql).fetch_all(&mut conn).await.unwrap();
        let moved: BTreeSet<&str> = TABLES.iter().map(|table| table.name).collect();
        // Its epoch moves, its leader stays with SQLite.
        let expected: BTreeSet<&str> =
            there.iter().map(String::as_str).filter(|name| *name != "coord").collect();
        assert_eq!(moved, expected);
        for table in TABLES {
            let sql = "SELECT name FROM pragma_table_info($1) ORDER BY cid";
            let columns: Vec<String> =
                sqlx::query_scalar(sql).bind(table.name).fetch_all(&mut conn).await.unwrap();
            let columns = columns.join(", ");
            let back = table.back.split_whitespace().collect::<Vec<_>>().join(" ");
            let name = table.name;
            assert_eq!(back, format!("SELECT {columns} FROM {name} WHERE tenant = $1"));
            let write = table.write.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(write.starts_with(&format!("INSERT INTO {name} ({columns}")), "{write}");
        }
    }
}
