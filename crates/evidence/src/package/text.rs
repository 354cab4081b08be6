//! The texts of a package that people read first.

use super::list::List;
use super::manifest::{Manifest, Point};
use super::sheet::LIMITATIONS;

/// Returns the statement on completeness.
pub(crate) fn attestation(manifest: &Manifest, gaps: usize) -> String {
    let (mut rows, mut kinds) = (0, Vec::new());
    for entry in manifest.lists.iter().filter(|entry| entry.list != List::LateOutcomes) {
        rows += entry.totals.rows;
        kinds.push(format!("{} {}", entry.totals.rows, entry.list.name()));
    }
    let late = manifest.totals(List::LateOutcomes).map_or(0, |totals| totals.rows);
    let over = if manifest.period_is_over {
        ""
    } else {
        "\nThe log's newest record is older than the end of the period: whatever is recorded in the period \
         from now\non is not in this package.\n"
    };
    format!(
        "This package contains all {rows} records that the log {origin} of tenant {tenant}\n\
         recorded from {from} (inclusive) to {to} (exclusive), UTC, and that match\n\
         the filters: {kinds}.\n\
         Filters: {filters}. It also lists {late} outcomes that were recorded outside the\n\
         period and belong to listed decisions.\n\n\
         Leaf range [{first}, {size}), root {root}.\n\
         Gaps in the period: {gaps}{listed}.\n\
         Sections not opened: all private sections; they stand as digests.\n{over}\n\
         This statement is produced by software, as of {as_of}, and can be verified with\n\
         `countersign verify --package`; it is not an audit opinion.\n",
        kinds = kinds.join(", "),
        origin = manifest.origin,
        tenant = manifest.tenant,
        from = manifest.from,
        to = manifest.to,
        filters = filters(manifest),
        first = manifest.first_leaf,
        size = manifest.checkpoint_end.size,
        root = manifest.checkpoint_end.root,
        listed = if gaps == 0 { "" } else { " (listed in records/gaps.jsonl)" },
        as_of = manifest.as_of,
    )
}

fn filters(manifest: &Manifest) -> String {
    manifest.filters.words()
}

/// Returns the page for auditors.
pub(crate) fn readme(manifest: &Manifest, signed: bool) -> String {
    [
        about(manifest),
        contents(manifest, signed),
        checking(manifest, signed),
        sampling(manifest),
        limits(),
    ]
    .join("\n")
}

fn about(manifest: &Manifest) -> String {
    let start = manifest.checkpoint_start.as_ref().map_or_else(
        || "none is stored".to_owned(),
        |Point { size, root }| format!("size {size}, root {root}"),
    );
    let over = if manifest.period_is_over {
        "The log has records from after the period, so the period is over.".to_owned()
    } else {
        format!(
            "**The newest record is from {}, before the end of the period.** If the period is not over, \
             ask for\nanother package when it is.",
            manifest.as_of
        )
    };
    format!(
        "# Evidence package\n\n\
         | | |\n|---|---|\n\
         | period | {from} (inclusive) to {to} (exclusive) |\n\
         | time zone | UTC |\n\
         | as of | {as_of}, the newest record under the last checkpoint |\n\
         | filters | {filters} |\n\
         | log | {origin}, tenant {tenant} |\n\
         | checkpoint before the period | {start} |\n\
         | last checkpoint | size {size}, root {root} |\n\
         | built by | countersign {generator} |\n\n{over}\n",
        from = manifest.from,
        to = manifest.to,
        as_of = manifest.as_of,
        filters = filters(manifest).replace('|', "\\|"),
        origin = manifest.origin,
        tenant = manifest.tenant,
        size = manifest.checkpoint_end.size,
        root = manifest.checkpoint_end.root,
        generator = manifest.generator,
    )
}

fn contents(manifest: &Manifest, signed: bool) -> String {
    let mut text = "## What is here\n\n| list | rows | what it is |\n|---|---|---|\n".to_owned();
    for entry in &manifest.lists {
        let (list, rows) = (entry.list, entry.totals.rows);
        text.push_str(&format!("| {} | {rows} | {} |\n", list.name(), list.title()));
    }
    let signature = if signed {
        "`manifest.sig` signs that hash list with the log's key."
    } else {
        "The manifest is not signed."
    };
    text.push_str(&format!(
        "\nA list with 0 rows is complete too: nothing of its kind was recorded in the period and matches.\n\n\
         - `csv/` has the lists for spreadsheets; `decisions_narrow.csv` has fewer columns. A text that a\n  \
         spreadsheet would take for a formula has a leading `'`, and `csv_escaped` names its column.\n\
         - `records/` has the same records as they were committed, one JSON object per line: `index` is the\n  \
         position in the log, `leaf` the bytes that were hashed.\n\
         - `coverage/recorder.csv` says when each gateway's recorder was up, down or in a gap; per gateway, its rows\n  \
         fill the period without overlap or hole.\n\
         - `ipe/` has a sheet per list: source, query, parameters, totals, what is left out.\n\
         - `log/` has the whole published log from its first record to the last checkpoint (C2SP\n  \
         tlog-tiles), not only the period: every record that a list leaves out can be seen and judged.\n\
         - `checkpoints/` has the signed checkpoints, `proofs/` a proof for each record of the sample.\n\
         - `attestation.txt` states what the package contains.\n\
         - `manifest.json` has the hash of every file. {signature}\n"
    ));
    text
}

fn checking(manifest: &Manifest, signed: bool) -> String {
    let signature = if signed { ", the signature of the manifest" } else { "" };
    format!(
        "## How to check it\n\n\
         Get the log's public key by another way than this package, and put it into `log.vkey`.\n\n\
         ```console\n\
         $ countersign verify --package . --vkey log.vkey --pinned CHECKPOINT_YOU_KEPT\n\
         ```\n\n\
         checks the file hashes{signature}, every record of the log up to the signed root, and that each list\n\
         has exactly the records that its query asks for: all of them are derived again from `log/` and\n\
         compared byte for byte. It needs no network.\n\n\
         ```console\n\
         $ python3 verify_evidence.py package . --vkey log.vkey --pinned CHECKPOINT_YOU_KEPT\n\
         ```\n\n\
         is a second, independent program that derives the lists again. It must print size {size} and root\n\
         {root}. `verify.py` checks the log alone. Both need the other two `verify_*.py`\n\
         beside them. Take all four from the program's source if you want to be independent of who built\n\
         this package.\n",
        size = manifest.checkpoint_end.size,
        root = manifest.checkpoint_end.root,
    )
}

fn sampling(manifest: &Manifest) -> String {
    let sample = &manifest.sample;
    format!(
        "## How to sample\n\n\
         Choose a number. The sample of n decisions is the n with the smallest SHA-256 of your number, a colon\n\
         and the record's id. `countersign sample --package . --n 25 --draw 4711` prints it, and so does this:\n\n\
         ```python\n{script}```\n\n\
         run as `python3 sample.py records/decisions.jsonl`. The {drawn} proofs in `proofs/` are for the draw\n\
         `{draw}`.\n",
        script = super::script("4711", 25),
        drawn = sample.items.len(),
        draw = crate::shown(&sample.draw).replace('`', "'"),
    )
}

fn limits() -> String {
    let mut text = "## What it does not prove\n\n".to_owned();
    for limitation in LIMITATIONS {
        text.push_str(&format!("- {limitation}\n"));
    }
    text.push_str(
        "\nIt proves that these lists are complete for what the log holds, and that the log is the one whose\n\
         key you have. It is not an audit opinion.\n",
    );
    text
}
