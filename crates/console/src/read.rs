//! Reading records: lists in pages, one record, its proof. Every answer is itself on record (`access`).

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header::{ACCEPT, LINK};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri};
use axum::response::Response;
use countersign_evidence::case::{find, open};
use countersign_evidence::proof::RecordFile;
use countersign_evidence::query::page;
use countersign_evidence::sentence::sentence;
use countersign_evidence::{Opened, Record, csv};
use countersign_ledger::LeafIndex;
use countersign_model::RecordId;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::Console;
use crate::access::{self, Access};
use crate::acp::{self, AcpRecord};
use crate::answer::{ApiError, JSON, json_response, with_body};
use crate::cursor::Cursor;
use crate::guard::require;
use crate::listing::{Format, Listing, Shape};
use crate::openapi::{ListParams, ReadRefusals};
use crate::params::Params;
use crate::role::{Caller, Role};

type Answer = Result<Response, ApiError>;

/// A page of records, newest first.
#[derive(Serialize, ToSchema)]
pub(crate) struct RecordPage {
    /// The public part of each record, with `at`, `leaf_index` and `leaf_hash`; or, in the shape `acp`, calls
    /// as `AcpRecord`.
    #[schema(value_type = Vec<Object>)]
    records: Vec<Value>,
    /// What `cursor` gets for the next page; null if this is the last one.
    #[schema(required)]
    next_cursor: Option<String>,
    /// How many records the log had at the first page: the walk is over these.
    tree_size: u64,
}

/// One record and what came of it.
#[derive(Serialize, ToSchema)]
pub(crate) struct OneRecord {
    /// What it says, in a sentence without private fields.
    sentence: String,
    /// Its public part, with `at`, `leaf_index` and `leaf_hash`.
    #[schema(value_type = Object)]
    record: Value,
    /// The outcomes of a call, oldest first; a later one supersedes those before it.
    #[schema(value_type = Vec<Object>)]
    outcomes: Vec<Value>,
}

/// One record in either shape.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum Shown {
    Record(OneRecord),
    Acp(Box<AcpRecord>),
}

/// Lists the records that match, newest first, in pages
#[utoipa::path(
    get,
    path = "/api/v1/records",
    tag = "records",
    params(ListParams),
    responses(
        (status = 200, description = "A page; `Link: <…>; rel=\"next\"` if there are more records",
            content((RecordPage = "application/json"), (String = "text/csv")),
            headers(("link", description = "The next page (RFC 8288)"))),
        ReadRefusals,
    )
)]
pub(crate) async fn list_records(
    State(console): State<Arc<Console>>,
    Extension(caller): Extension<Caller>,
    uri: Uri,
    headers: HeaderMap,
) -> Answer {
    list(&console, &caller, &uri, &headers, "/api/v1/records", Shape::Record).await
}

/// Lists calls as Agentic Control Plane does: `/api/v1/records` with `shape=acp` unless told otherwise
#[utoipa::path(
    get,
    path = "/api/v1/audit",
    tag = "records",
    params(ListParams),
    responses(
        (status = 200, description = "A page", body = RecordPage,
            headers(("link", description = "The next page (RFC 8288)"))),
        ReadRefusals,
    )
)]
pub(crate) async fn list_audit(
    State(console): State<Arc<Console>>,
    Extension(caller): Extension<Caller>,
    uri: Uri,
    headers: HeaderMap,
) -> Answer {
    list(&console, &caller, &uri, &headers, "/api/v1/audit", Shape::Acp).await
}

/// The same below the tenant's name
#[utoipa::path(
    get,
    path = "/{tenant}/api/v1/audit",
    tag = "records",
    params(("tenant" = String, Path, description = "The tenant of this installation"), ListParams),
    responses(
        (status = 200, description = "A page", body = RecordPage,
            headers(("link", description = "The next page (RFC 8288)"))),
        (status = 404, description = "Another tenant", body = crate::answer::ErrorBody),
        ReadRefusals,
    )
)]
pub(crate) async fn list_tenant_audit(
    State(console): State<Arc<Console>>,
    Extension(caller): Extension<Caller>,
    Path(tenant): Path<String>,
    uri: Uri,
    headers: HeaderMap,
) -> Answer {
    if tenant != console.store.config().tenant.as_str() {
        return Err(ApiError::not_found("there is no such tenant"));
    }
    list(&console, &caller, &uri, &headers, "/{tenant}/api/v1/audit", Shape::Acp).await
}

async fn list(
    console: &Console,
    caller: &Caller,
    uri: &Uri,
    headers: &HeaderMap,
    route: &'static str,
    shape: Shape,
) -> Answer {
    let accept = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok());
    let listing = Listing::parse(Params::of(uri)?, accept, shape)?;
    if listing.shape == Shape::Acp {
        require(console, caller, Role::Auditor, uri.path()).await?;
    }
    let query = listing.query();
    let size = console.reader.size().await?;
    let cursor = match &listing.cursor {
        Some(text) => Cursor::read(text, &query, size)?,
        None => Cursor::first(size),
    };
    let before = LeafIndex(cursor.before);
    let page = page(&console.reader, listing.filter.clone(), before, listing.limit).await?;
    let next = page.next.map(|next| Cursor { before: next.0, ..cursor }.write(&query));
    let count = page.records.len();
    let answer = match listing.format {
        Format::Csv => with_body(
            StatusCode::OK,
            Body::from(csv::table(&page.records)?),
            "text/csv; charset=utf-8",
            "no-store",
        ),
        Format::Json => {
            let records = shaped(console, page.records, listing.shape, cursor.tree_size).await?;
            let tree_size = cursor.tree_size;
            json_response(
                StatusCode::OK,
                &RecordPage { records, next_cursor: next.clone(), tree_size },
            )
        }
    };
    let disclosed = match listing.shape {
        Shape::Acp if count > 0 => acp::OPENED.map(str::to_owned).to_vec(),
        Shape::Acp | Shape::Record => Vec::new(),
    };
    let filters = listing.recorded_filters(console)?;
    let tree_size = Some(cursor.tree_size);
    let access = Access { route, count, tree_size, filters, disclosed, ..Access::default() };
    access::record(console, caller, access).await?;
    with_link(answer, next.map(|next| listing.next_page(uri.path(), &next)))
}

async fn shaped(
    console: &Console,
    records: Vec<Record>,
    shape: Shape,
    tree_size: u64,
) -> Result<Vec<Value>, ApiError> {
    let mut shown = Vec::with_capacity(records.len());
    for record in records {
        shown.push(match shape {
            Shape::Record => record.to_json(),
            Shape::Acp => {
                let record = acp::shape(&console.reader, record, tree_size).await?;
                serde_json::to_value(record).map_err(|error| ApiError::internal(&error))?
            }
        });
    }
    Ok(shown)
}

/// Adds the address of the next page (RFC 8288).
fn with_link(mut answer: Response, next: Option<String>) -> Answer {
    if let Some(next) = next {
        let link = format!(r#"<{next}>; rel="next""#);
        let link = HeaderValue::from_str(&link).map_err(|error| ApiError::internal(&error))?;
        answer.headers_mut().insert(LINK, link);
    }
    Ok(answer)
}

/// Shows one record with its outcomes; the id of an outcome shows its call
#[utoipa::path(
    get,
    path = "/api/v1/records/{id}",
    tag = "records",
    params(
        ("id" = String, Path, description = "The record's id; that of a decision is the call's evaluation id"),
        ("shape" = Option<String>, Query, description = "`record` (default), or `acp`, which takes the role `auditor`"),
    ),
    responses(
        (status = 200, description = "The record, in the shape that was asked for", body = Shown),
        (status = 404, description = "There is no such record", body = crate::answer::ErrorBody),
        ReadRefusals,
    )
)]
pub(crate) async fn show_record(
    State(console): State<Arc<Console>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    uri: Uri,
) -> Answer {
    let mut params = Params::of(&uri)?;
    let shape = Shape::take(&mut params)?.unwrap_or(Shape::Record);
    params.finish()?;
    if shape == Shape::Acp {
        require(&console, &caller, Role::Auditor, uri.path()).await?;
    }
    let record = find(&console.reader, &id).await?;
    let route = "/api/v1/records/{id}";
    let mut access =
        Access { route, count: 1, record: Some(record.id().to_owned()), ..Access::default() };
    let shown = match shape {
        Shape::Acp if record.kind() != "decision" => {
            let message = format!("only calls have it, and this is of kind `{}`", record.kind());
            return Err(ApiError::parameter("shape", message));
        }
        Shape::Acp => {
            access.disclosed = acp::OPENED.map(str::to_owned).to_vec();
            Shown::Acp(Box::new(acp::shape(&console.reader, record, u64::MAX).await?))
        }
        Shape::Record => {
            let outcomes = outcomes_of(&console, &record).await?;
            access.count += outcomes.len();
            Shown::Record(OneRecord {
                sentence: sentence(&record, None),
                record: record.to_json(),
                outcomes: outcomes.iter().map(Record::to_json).collect(),
            })
        }
    };
    access::record(&console, &caller, access).await?;
    Ok(json_response(StatusCode::OK, &shown))
}

/// Gives a record as a file that `countersign verify --record` checks offline
#[utoipa::path(
    get,
    path = "/api/v1/records/{id}/proof",
    tag = "records",
    params(
        ("id" = String, Path, description = "The record's id"),
        ("disclose" = Option<String>, Query,
            description = "Private fields to open, separated by commas, `*` for all; takes the role `auditor`"),
    ),
    responses(
        (status = 200, description = "The record file: leaf, opened fields, C2SP tlog-proof, and the same for each outcome", body = Object),
        (status = 404, description = "There is no such record", body = crate::answer::ErrorBody),
        (status = 410, description = "The keys of its private fields are destroyed", body = crate::answer::ErrorBody),
        ReadRefusals,
    )
)]
pub(crate) async fn prove_record(
    State(console): State<Arc<Console>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    uri: Uri,
) -> Answer {
    let mut params = Params::of(&uri)?;
    let disclose = Disclose::parse(params.take("disclose").as_deref());
    params.finish()?;
    if disclose != Disclose::Nothing {
        require(&console, &caller, Role::Auditor, uri.path()).await?;
    }
    let record = find(&console.reader, &id).await?;
    let main = disclose.open(&console, record.clone()).await?;
    let mut outcomes = Vec::new();
    for outcome in outcomes_of(&console, &record).await? {
        outcomes.push(disclose.open(&console, outcome).await?);
    }
    let disclosed = disclose.found_in(std::iter::once(&main).chain(&outcomes))?;
    let main = main.only(&disclosed);
    let outcomes: Vec<_> = outcomes.into_iter().map(|one| one.only(&disclosed)).collect();
    let file =
        RecordFile::prove(&console.reader, &main, &outcomes, &console.store.log_keys()).await?;
    let text = file.to_text()?;
    let access = Access {
        route: "/api/v1/records/{id}/proof",
        count: 1 + outcomes.len(),
        record: Some(record.id().to_owned()),
        disclosed,
        ..Access::default()
    };
    access::record(&console, &caller, access).await?;
    Ok(with_body(StatusCode::OK, Body::from(text), JSON, "no-store"))
}

/// Which private fields to open.
#[derive(Debug, PartialEq, Eq)]
enum Disclose {
    Nothing,
    All,
    Named(Vec<String>),
}

impl Disclose {
    fn parse(text: Option<&str>) -> Self {
        match text {
            None => Self::Nothing,
            Some("*") => Self::All,
            Some(names) => Self::Named(names.split(',').map(str::to_owned).collect()),
        }
    }

    async fn open(&self, console: &Console, record: Record) -> Result<Opened, ApiError> {
        match self {
            Self::Nothing => Ok(Opened::public(record)),
            Self::All | Self::Named(_) => Ok(open(&console.reader, record).await?),
        }
    }

    /// Returns the names of the fields to show; each that was asked for has to be there.
    fn found_in<'a>(
        self,
        opened: impl Iterator<Item = &'a Opened> + Clone,
    ) -> Result<Vec<String>, ApiError> {
        let there: BTreeSet<&String> = opened.clone().flat_map(|one| one.private.keys()).collect();
        let Self::Named(names) = self else { return Ok(there.into_iter().cloned().collect()) };
        let Some(absent) = names.iter().find(|name| !there.contains(name)) else {
            return Ok(names);
        };
        if let Some(closed) = opened.filter_map(|one| one.closed.as_deref()).next() {
            return Err(ApiError::gone(format!("private fields stay closed: {closed}")));
        }
        let there = there.into_iter().map(|name| format!("`{name}`")).collect::<Vec<_>>();
        let message = format!("there is no field `{absent}`, but {}", there.join(", "));
        Err(ApiError::parameter("disclose", message))
    }
}

async fn outcomes_of(console: &Console, record: &Record) -> Result<Vec<Record>, ApiError> {
    match record.id().parse::<RecordId>() {
        Ok(id) if record.kind() == "decision" => {
            let outcomes = console.reader.outcomes(id).await?;
            Ok(outcomes.into_iter().map(Record::from).collect())
        }
        _ => Ok(Vec::new()),
    }
}
