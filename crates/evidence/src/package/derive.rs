//! Derives everything that follows from a log, a period and filters.

use countersign_ledger::tile::TileHashReader;
use countersign_ledger::tree::{Frontier, inclusion_proof};
use countersign_ledger::verify::LogSource;
use countersign_ledger::{Checkpoint, Hash, LeafIndex, Note, TlogProof, TreeSize, leaf_hash};
use countersign_model::RecordId;

use super::leaves::{Leaves, Tiles};
use super::limits::SAMPLE_MAX;
use super::list::{List, Scope};
use super::manifest::{FORMAT, ListEntry, Manifest, Point, SampleEntry, SampleItem};
use super::output::{Nowhere, Output, Sink};
use super::sample::Sample;
use super::survey::Survey;
use super::{PackageError, recorder, sheet, table, text};
use crate::coverage::Coverage;
use crate::csv::header;
use crate::{Record, time};

/// What a package should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The period and the filters.
    pub scope: Scope,
    /// The sample of decisions that get a proof each.
    pub sample: SampleRequest,
    /// The version of the program that builds it.
    pub generator: String,
}

/// A sample to be drawn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SampleRequest {
    /// What is mixed into each rank; the root of the last checkpoint, base64, if nobody chose.
    pub draw: Option<String>,
    /// How many records; at most 10,000.
    pub n: usize,
}

/// A log up to a signed checkpoint.
pub(crate) struct Log<'a, S> {
    pub(crate) source: &'a S,
    pub(crate) note: Note,
    pub(crate) end: Checkpoint,
    /// The sizes at which earlier checkpoints are stored.
    pub(crate) stored: Vec<TreeSize>,
}

/// Counts what a package would hold, and draws its sample, without writing one.
///
/// # Errors
/// [`PackageError`] if the log cannot be read or does not lead to its checkpoint.
pub fn survey(
    log: &crate::folder::LogFolder,
    keys: &[countersign_ledger::VerifierKey],
    request: &Request,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Manifest, PackageError> {
    let log = super::build::opened(log, keys)?;
    let mut nowhere = Nowhere;
    derive(&log, request, &mut Output::new(&mut nowhere), progress)
}

/// Derives lists, tables, sheets, proofs and the attestation; returns the manifest, without its files.
pub(crate) fn derive<S: LogSource, K: Sink>(
    log: &Log<'_, S>,
    request: &Request,
    out: &mut Output<'_, K>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Manifest, PackageError> {
    let scope = &request.scope;
    if scope.from_ms >= scope.to_ms {
        let (from, to) = scope.ends();
        return Err(PackageError::Request(format!(
            "the period ends, {to}, before it begins, {from}"
        )));
    }
    if request.sample.n > SAMPLE_MAX {
        return Err(PackageError::Request(format!("a sample has at most {SAMPLE_MAX} records")));
    }
    let draw = request.sample.draw.clone().unwrap_or_else(|| log.end.root.to_base64());
    let mut sample = Sample::new(&draw, request.sample.n);
    let mut roots = Roots::new(&log.stored);
    let (mut survey, mut coverage) = (Survey::new(scope), Coverage::default());
    for list in List::ALL {
        for (path, columns) in list.tables().iter().zip(table::columns(list)) {
            out.line(path, &header(columns))?;
        }
    }
    let mut leaves = Leaves::new(log.source, log.end.size);
    for bundle in 0..leaves.bundles() {
        for entry in leaves.bundle(bundle)? {
            let index = roots.add(&entry, &survey);
            let record = Record::parse(index.0, entry)?;
            coverage.add(&record);
            let Some(list) = survey.add(&record) else { continue };
            out.line(&list.records(), &leaf_line(&record))?;
            if list == List::Decisions {
                sample.offer(record.id(), index);
            } else {
                rows(list, &record, None, out)?;
            }
        }
        progress(roots.frontier.size().0, log.end.size.0);
    }
    if roots.frontier.root() != log.end.root {
        let reason = format!("its entries do not have the signed root of size {}", log.end.size);
        return Err(PackageError::Unsound(reason));
    }
    for listed in &survey.listed {
        let record = leaves.record(listed.decision)?;
        let outcome = listed.outcome.map(|index| leaves.record(index)).transpose()?;
        rows(List::Decisions, &record, outcome.as_ref(), out)?;
    }
    for list in List::ALL {
        out.end(&list.records())?;
        list.tables().iter().try_for_each(|path| out.end(path))?;
    }
    let start = roots.start(survey.first);
    let sample = SampleEntry { draw, n: request.sample.n, items: items(sample)? };
    proofs(log, &sample, out)?;
    let manifest = manifest(log, request, &survey, start, sample);
    for list in List::ALL {
        out.text(&sheet::path(list), &sheet::sheet(list, scope, &manifest, &survey, &out.files)?)?;
    }
    recorder::derive(&coverage, scope, &manifest, out)?;
    out.text("attestation.txt", &text::attestation(&manifest, survey.gaps.len()))?;
    Ok(manifest)
}

fn rows<K: Sink>(
    list: List,
    record: &Record,
    outcome: Option<&Record>,
    out: &mut Output<'_, K>,
) -> Result<(), PackageError> {
    for (path, columns) in list.tables().iter().zip(table::columns(list)) {
        out.line(path, &table::line(columns, record, outcome))?;
    }
    Ok(())
}

/// Returns `{index, leaf}` in canonical JSON: the leaf is canonical itself.
fn leaf_line(record: &Record) -> Vec<u8> {
    let mut line = format!("{{\"index\":{},\"leaf\":", record.index()).into_bytes();
    line.extend_from_slice(record.body());
    line.extend_from_slice(b"}\n");
    line
}

/// The tree as it grows, and its root at the last stored checkpoint before the period.
struct Roots {
    frontier: Frontier,
    stored: std::collections::BTreeSet<u64>,
    start: Option<Point>,
}

impl Roots {
    fn new(stored: &[TreeSize]) -> Self {
        let stored = stored.iter().map(|size| size.0).collect();
        Self { frontier: Frontier::new(), stored, start: None }
    }

    /// Adds an entry; `survey` has seen those before it.
    fn add(&mut self, entry: &[u8], survey: &Survey<'_>) -> LeafIndex {
        let index = LeafIndex(self.frontier.size().0);
        if survey.first.is_none() {
            self.mark();
        }
        self.frontier.push(leaf_hash(entry));
        index
    }

    /// Takes the present size as the start, if a checkpoint of it is stored.
    fn mark(&mut self) {
        let size = self.frontier.size().0;
        if self.stored.contains(&size) {
            self.start = Some(Point { size, root: self.frontier.root().to_base64() });
        }
    }

    fn start(mut self, first: Option<LeafIndex>) -> Option<Point> {
        if first.is_none() {
            self.mark();
        }
        self.start
    }
}

fn items(sample: Sample) -> Result<Vec<SampleItem>, PackageError> {
    let item = |(rank, record_id, index): (Hash, String, LeafIndex)| {
        // It becomes the name of a file.
        if record_id.parse::<RecordId>().is_err() {
            let reason = "its id is no UUID".to_owned();
            return Err(crate::EvidenceError::NotARecord { index: index.0, reason }.into());
        }
        Ok(SampleItem { record_id, leaf_index: index.0, rank: rank.to_string() })
    };
    sample.drawn().into_iter().map(item).collect()
}

/// Writes the proof of each record of the sample.
fn proofs<S: LogSource, K: Sink>(
    log: &Log<'_, S>,
    sample: &SampleEntry,
    out: &mut Output<'_, K>,
) -> Result<(), PackageError> {
    let hashes = TileHashReader::new(Tiles(log.source), log.end.size);
    for item in &sample.items {
        let index = LeafIndex(item.leaf_index);
        let hashes = inclusion_proof(&hashes, index, log.end.size)
            .map_err(|error| PackageError::Unsound(error.to_string()))?;
        let proof = TlogProof { extra: None, index, hashes, checkpoint: log.note.clone() };
        let path = format!("proofs/{}.tlog-proof", item.record_id);
        out.text(&path, &proof.to_string())?;
    }
    Ok(())
}

fn manifest<S>(
    log: &Log<'_, S>,
    request: &Request,
    survey: &Survey<'_>,
    start: Option<Point>,
    sample: SampleEntry,
) -> Manifest {
    let (from, to) = request.scope.ends();
    let totals = survey.totals.iter();
    Manifest {
        format: FORMAT.to_owned(),
        generator: request.generator.clone(),
        origin: log.end.origin.clone(),
        tenant: survey.tenant.clone(),
        from,
        to,
        filters: request.scope.filters.clone(),
        as_of: time::utc(survey.as_of_ms),
        period_is_over: survey.as_of_ms >= request.scope.to_ms,
        checkpoint_start: start,
        checkpoint_end: Point { size: log.end.size.0, root: log.end.root.to_base64() },
        first_leaf: 0,
        lists: totals
            .map(|(list, totals)| ListEntry { list: *list, totals: totals.clone() })
            .collect(),
        excluded: survey.excluded.clone(),
        sample,
        files: Vec::new(),
    }
}
