//! What is wrong with a bundle is said with its place.

use countersign_decision::{Bundle, Severity};

use crate::support::{MANIFEST, files, load, render};

/// Loads policies beside the usual server and returns all findings.
fn findings(policies: &str) -> String {
    let (loaded, mut found) = match Bundle::load(&files(policies)) {
        Ok(bundle) => ("loaded\n", bundle.warnings().to_vec()),
        Err(found) => ("", found),
    };
    for one in &mut found {
        // Among equally near names Cedar picks one by chance.
        one.help.take_if(|help| help.starts_with("did you mean"));
    }
    format!("{loaded}{}", render(&found))
}

#[test]
fn diagnostics_of_policies() {
    let refund = r#"action == Action::"crm/refund", resource)"#;
    let cases = [
        ("syntax", "permit (principal, action, resource) when { 1 + };".to_owned()),
        ("no id", "permit (principal, action, resource);".to_owned()),
        ("same id", r#"@id("a") permit (principal, action, resource);
            @id("a") forbid (principal, action, resource);"#.to_owned()),
        ("mode", r#"@id("a") @mode("loud") permit (principal, action, resource);"#.to_owned()),
        ("code", r#"@id("a") @code("Bounds") forbid (principal, action, resource);"#.to_owned()),
        ("approval", r#"@id("a") @approval("x") permit (principal, action, resource);"#.to_owned()),
        ("annotation", r#"@id("a") @mod("warn") permit (principal, action, resource);"#.to_owned()),
        ("template", r#"@id("a") permit (principal == ?principal, action, resource);"#.to_owned()),
        ("type", format!("@id(\"a\")\nforbid (principal, {refund}\nwhen {{ context.arguments.amount > \"5\" }};")),
        ("attribute", format!("@id(\"a\")\nforbid (principal, {refund}\nwhen {{ context.arguments.amuont > 5 }};")),
        ("optional", format!("@id(\"a\")\nforbid (principal, {refund}\nwhen {{ context.arguments.limit > 5 }};")),
        ("untyped", format!("@id(\"a\")\nforbid (principal, {refund}\nwhen {{ context.arguments.anything == 5 }};")),
        ("all tools", "@id(\"a\")\nforbid (principal, action in Action::\"tools\", resource)\nwhen { context.arguments.amount > 5 };".to_owned()),
        ("unpinned tool", r#"@id("a") permit (principal, action == Action::"crm/query", resource);"#.to_owned()),
        ("unknown server", r#"@id("a") permit (principal, action in Action::"server:erp", resource);"#.to_owned()),
        ("unknown tag", r#"@id("a") forbid (principal, action in Action::"tag:mony", resource);"#.to_owned()),
        ("unused tag", r#"@id("a") forbid (principal, action in Action::"tag:privilege", resource);"#.to_owned()),
        ("unknown entity", r#"@id("a") permit (principal == User::"sam", action, resource);"#.to_owned()),
    ];
    let report: Vec<_> =
        cases.iter().map(|(name, policies)| format!("# {name}\n{}", findings(policies))).collect();
    insta::assert_snapshot!("diagnostics_of_policies", report.join("\n\n"));
}

#[test]
fn diagnostics_of_files() {
    let tool = |schema: &str| {
        format!(r#"{{"server": "crm", "tools": [{{"name": "t", "inputSchema": {schema}}}]}}"#)
    };
    let two = r#"{"name": "t", "inputSchema": {}}"#;
    let cases = [
        ("no manifest", "manifests/crm.toml", None),
        (
            "manifest key",
            "manifests/crm.toml",
            Some("environment = \"prod\"\ncolour = 1".to_owned()),
        ),
        ("manifest syntax", "manifests/crm.toml", Some("environment = ".to_owned())),
        ("environment", "manifests/crm.toml", Some("environment = \"Prod\"".to_owned())),
        ("unpinned", "manifests/crm.toml", Some(format!("{MANIFEST}\n[tools.query]\n"))),
        (
            "tag",
            "manifests/crm.toml",
            Some("environment = \"prod\"\ntools.refund.tags = [\"Money!\"]".to_owned()),
        ),
        ("server name", "manifests/C R M.toml", Some(MANIFEST.to_owned())),
        ("json", "tools/crm.json", Some("{\n  \"server\": }".to_owned())),
        ("other server", "tools/crm.json", Some(r#"{"server": "erp", "tools": []}"#.to_owned())),
        (
            "twice",
            "tools/crm.json",
            Some(format!(r#"{{"server": "crm", "tools": [{two}, {two}]}}"#)),
        ),
        (
            "no schema",
            "tools/crm.json",
            Some(r#"{"server": "crm", "tools": [{"name": "t"}]}"#.to_owned()),
        ),
        ("no name", "tools/crm.json", Some(r#"{"server": "crm", "tools": [{}]}"#.to_owned())),
        (
            "remote schema",
            "tools/crm.json",
            Some(tool(r#"{"$ref": "https://example.com/s.json"}"#)),
        ),
        ("wrong schema", "tools/crm.json", Some(tool(r#"{"type": "strnig"}"#))),
        ("stray file", "policies/old.txt", Some(String::new())),
        ("not text", "policies/b.cedar", Some("\u{0}".to_owned())),
    ];
    let report: Vec<_> = cases
        .into_iter()
        .map(|(name, path, text)| {
            let mut files = files("");
            match text {
                Some(text) => files.0.insert(path.to_owned(), text.into_bytes()),
                None => files.0.remove(path),
            };
            let found = match Bundle::load(&files) {
                Ok(bundle) => format!("loaded\n{}", render(bundle.warnings())),
                Err(found) => render(&found),
            };
            format!("# {name}\n{found}")
        })
        .collect();
    insta::assert_snapshot!("diagnostics_of_files", report.join("\n\n"));
}

#[test]
fn the_generated_schema() {
    insta::assert_snapshot!("schema", load("").schema());
}

#[test]
fn errors_come_before_warnings() {
    let policies = r#"@id("a") @mod("x") permit (principal, action, resource);
        @id("b") @mode("x") permit (principal, action, resource);"#;
    let found = Bundle::load(&files(policies)).unwrap_err();
    let severities: Vec<_> = found.iter().map(|one| one.severity).collect();
    assert_eq!(severities, [Severity::Error, Severity::Warning]);
}

#[test]
fn limits_are_checked_first() {
    let mut large = files("");
    let bytes = vec![b' '; countersign_decision::BUNDLE_FILE_BYTES_MAX + 1];
    large.0.insert("policies/large.cedar".to_owned(), bytes);
    let found = Bundle::load(&large).unwrap_err();
    assert_eq!(render(&found), "policies/large.cedar: error: a file has at most 4194304 bytes");
}

#[test]
fn a_misspelt_attribute_is_set_right() {
    let policy = r#"@id("a") forbid (principal, action == Action::"crm/refund", resource)
        when { context.arguments.amuont > 5 };"#;
    let found = Bundle::load(&files(policy)).unwrap_err();
    assert_eq!(found[0].help.as_deref(), Some("did you mean `amount`?"));
}
