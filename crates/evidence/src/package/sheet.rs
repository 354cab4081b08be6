//! The sheet that an auditor needs with every list: where it comes from, and what it adds up to.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::PackageError;
use super::list::{List, Scope};
use super::manifest::{FileEntry, Manifest};
use super::survey::Survey;

/// What no list of a package can tell.
pub(crate) const LIMITATIONS: [&str; 6] = [
    "actions that never reached the gateway are not recorded",
    "texts supplied by agents and tools are recorded, not judged",
    "the principal is as true as the credential or identity provider that named it",
    "two histories may have been shown before the first checkpoint that was kept elsewhere",
    "private fields are not opened: identities and arguments stand as pseudonyms and digests",
    "approvals and incidents are not recorded by this version",
];

/// Returns the path of a list's sheet.
pub(crate) fn path(list: List) -> String {
    format!("ipe/{}.json", list.name())
}

/// Says which part of which log a list was derived from.
pub(crate) fn source(manifest: &Manifest) -> Value {
    json!({
        "log": manifest.origin,
        "checkpoint_start": manifest.checkpoint_start,
        "checkpoint_end": manifest.checkpoint_end,
        "leaf_range": [manifest.first_leaf, manifest.checkpoint_end.size],
    })
}

/// Returns the sheet of a list.
pub(crate) fn sheet(
    list: List,
    scope: &Scope,
    manifest: &Manifest,
    survey: &Survey<'_>,
    files: &BTreeMap<String, FileEntry>,
) -> Result<String, PackageError> {
    let totals = survey.totals.get(&list).cloned().unwrap_or_default();
    let paths = [list.records()].into_iter().chain(list.tables());
    let files: Vec<&FileEntry> = paths.filter_map(|path| files.get(&path)).collect();
    let excluded: BTreeMap<_, _> = survey
        .excluded
        .iter()
        .filter(|(kind, _)| {
            List::of_kind(kind) == list || list == List::LateOutcomes && *kind == "outcome"
        })
        .collect();
    let sheet = json!({
        "ipe_id": format!("{}-{}", list.name(), manifest.checkpoint_end.size),
        "list": list.name(),
        "title": list.title(),
        "files": files,
        "system": "Countersign",
        "tool_version": manifest.generator,
        "tenant": manifest.tenant,
        "as_of": manifest.as_of,
        "query": list.rule(scope),
        "parameters": {
            "from": manifest.from,
            "to": manifest.to,
            "tz": "UTC",
            "filters": manifest.filters,
            "disclosure_profile": "public part only",
        },
        "period_semantics": "[from, to)",
        "period_is_over": manifest.period_is_over,
        "source": source(manifest),
        "row_count": totals.rows,
        "control_totals": {
            "by_day": totals.by_day,
            "by_result": totals.by_result,
            "by_agent": totals.by_agent,
        },
        "excluded": { "by_kind": excluded, "proof": "log/tile/entries" },
        "gaps": survey.gaps,
        "known_limitations": LIMITATIONS,
        "recompute": "countersign verify --package . --vkey KEY",
        "independent_recompute": "python3 verify_evidence.py package . --vkey KEY",
    });
    let text = serde_json::to_string_pretty(&sheet)
        .map_err(|error| PackageError::Request(error.to_string()))?;
    Ok(text + "\n")
}
