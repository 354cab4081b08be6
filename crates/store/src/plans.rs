//! Which indexes PostgreSQL takes for what is read again and again.

use countersign_testkit::Postgres;

use crate::db::postgres::Servers;
use crate::erase::{CHANGES, CLOSES, ERASURES, HOLDS};

/// A log of 20,000 leaves of one gateway, of which each thousandth is of a rare kind.
const FILLED: &str = "
    INSERT INTO stream SELECT 'acme', 'g1', 0, 1, 20010, '', now();
    INSERT INTO position SELECT 'acme', 'g1', 1, 20000, '';
    INSERT INTO intake SELECT 'acme', 'g1', 1, n, decode(lpad(to_hex(n), 32, '0'), 'hex'),
           coalesce(('{legal_hold,erasure,change,close}'::text[])[(n % 1000) + 1], 'check'), '', '{}'
      FROM generate_series(1, 20010) AS n;
    INSERT INTO leaf SELECT 'acme', n - 1, 'g1', 1, n, '' FROM generate_series(1, 20000) AS n;
    INSERT INTO frontier SELECT 'acme', 20000, '', '', 1;";

/// As the connections of [`Servers::readers`] are.
const READER: &str = "SET search_path = countersign; SET countersign.tenant = 'acme';
    SET enable_seqscan = off; SET jit = off; SET ROLE countersign_reader;";

#[tokio::test(flavor = "multi_thread")]
async fn rare_records_are_read_without_a_look_at_every_leaf() {
    let cluster = Postgres::start().unwrap();
    let url = cluster.database().unwrap();
    Servers::parse(std::slice::from_ref(&url), "acme").unwrap().migrate().await.unwrap();
    cluster.sql(&url, &format!("SET search_path = countersign; {FILLED}")).unwrap();
    for analyzed in ["", "ANALYZE"] {
        cluster.sql(&url, analyzed).unwrap();
        for sql in
            [&ERASURES, &HOLDS, &CHANGES, &CLOSES].into_iter().flat_map(|kind| kind.of_leaves())
        {
            for mode in ["force_custom_plan", "force_generic_plan"] {
                let plan = format!(
                    "{READER} SET plan_cache_mode = {mode}; PREPARE q AS {sql};
                     EXPLAIN EXECUTE q('acme'{})",
                    if sql.contains("$2") { ", 20000" } else { "" }
                );
                let plan = cluster.sql(&url, &plan).unwrap();
                let looks_up = plan.contains("leaf_place") && !plan.contains("leaf_pkey");
                assert!(looks_up && !plan.contains("Seq Scan on leaf"), "{mode}, {sql}:\n{plan}");
            }
        }
    }
}
