//! The bundles that come with the product.

use countersign_decision::{Bundle, run_tests};

use crate::support::{MANIFEST, files, read, tools};

#[test]
fn shipped_bundles_pass_their_own_tests() {
    for (folder, tests_min) in [("starter", 20), ("blank", 8)] {
        let report = run_tests(&read(folder));
        assert!(report.passed(), "{folder}:\n{report}");
        assert!(report.diagnostics.is_empty(), "{folder}:\n{report}");
        assert!(report.untested.is_empty(), "{folder}:\n{report}");
        assert!(report.tests.len() >= tests_min, "{folder}:\n{report}");
    }
}

#[test]
fn hash_covers_all_files_but_tests() {
    let files = read("starter");
    let hash = Bundle::load(&files).unwrap().hash().to_owned();
    let mut without_tests = files.clone();
    without_tests.0.retain(|path, _| !path.starts_with("tests/"));
    assert_eq!(without_tests.hash(), hash);
    for path in without_tests.0.keys() {
        let mut changed = files.clone();
        changed.0.get_mut(path).unwrap().push(b'\n');
        assert_ne!(changed.hash(), hash, "{path}");
    }
}

#[test]
fn a_failing_test_says_what_differs() {
    let mut files = read("starter");
    let test = r#"
        [[test]]
        name = "wrong on purpose"
        agent = { name = "bot", environment = "prod", roles = ["support-agent"] }
        tool = "crm/refund"
        arguments = { order_id = "1", amount = 6000 }
        expect = "allow"
        code = "NO_SUCH_CODE"
        rule = "no-such-policy"
    "#;
    files.0.retain(|path, _| !path.starts_with("tests/"));
    files.0.insert("tests/wrong.toml".to_owned(), test.into());
    let report = run_tests(&files);
    assert!(!report.passed());
    insta::assert_snapshot!(report, @r"
    FAILED tests/wrong.toml: wrong on purpose
           expected allow, got deny BOUNDS: amount>5000
           expected code NO_SUCH_CODE, got BOUNDS: amount>5000
           expected policy `no-such-policy`, got money-bounds
    no test is decided by policy `analyst`
    no test is decided by policy `crm-reading`
    no test is decided by policy `elicitation-forms`
    no test is decided by policy `environment-scope`
    no test is decided by policy `external-communication-approval`
    no test is decided by policy `maintenance`
    no test is decided by policy `no-data-deletion`
    no test is decided by policy `privilege-approval`
    no test is decided by policy `support-agent`
    0 passed, 1 failed
    ");
}

#[test]
fn a_server_is_found_beside_one_whose_name_begins_alike() {
    let mut all = files("");
    for suffix in ["", "-eu"] {
        let pins = tools().to_string().replace("\"crm\"", &format!("\"crm{suffix}\""));
        all.0.insert(format!("tools/crm{suffix}.json"), pins.into_bytes());
        all.0.insert(format!("manifests/crm{suffix}.toml"), MANIFEST.as_bytes().to_vec());
    }
    let bundle = Bundle::load(&all).unwrap();
    for server in ["crm", "crm-eu"] {
        assert!(bundle.server(&server.parse().unwrap()).is_some(), "{server}");
    }
}
