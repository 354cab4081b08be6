//! Retention: purging what is due, and what a restore test of the archive came to.

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use countersign_model::{Draft, Kind, RecordId};
use countersign_store::{Appended, Store, StoreError};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::Console;
use crate::answer::{ApiError, json_response};
use crate::api::{Answer, read};
use crate::limits::REASON_BYTES_MAX;
use crate::openapi::Refusals;
use crate::role::Caller;

pub(crate) fn routes() -> OpenApiRouter<Arc<Console>> {
    OpenApiRouter::default().routes(routes!(purge)).routes(routes!(record_restore_test))
}

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
struct Purge {
    /// Go on, and record it, though the clock may have jumped
    clock_is_right: bool,
}

/// Deletes the private sections whose time has come, and records it
#[utoipa::path(
    post,
    path = "/api/v1/retention/purge",
    tag = "retention",
    request_body = Purge,
    responses(
        (status = 200, description = "The job with its counts; `job` is null if nothing was due", body = Object),
        Refusals,
    )
)]
async fn purge(
    State(console): State<Arc<Console>>,
    Extension(caller): Extension<Caller>,
    body: Body,
) -> Answer {
    if read::<Purge>(body).await?.clock_is_right {
        console.store.confirm_clock(&caller.actor).await?;
    }
    Ok(json_response(StatusCode::OK, &console.store.purge_now().await?.to_json()))
}

/// What a restore test found: a segment of the archive was fetched and compared.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RestoreTest {
    /// The first leaf of the segment.
    pub from: u64,
    /// The leaf after its last one.
    pub to: u64,
    /// How many leaves the archive's checkpoint covers.
    pub archive_size: u64,
    /// The root of that checkpoint, in base64.
    pub root: String,
    /// Where the archive is.
    pub archive: String,
    /// What did not fit; nothing if all did.
    pub problem: Option<String>,
}

impl RestoreTest {
    /// Records it, as somebody's word.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] if a text is too long; as [`Store::append`].
    pub async fn record(self, store: &Store, actor: &str) -> Result<Appended, StoreError> {
        let Self { from, to, archive_size, root, archive, problem } = self;
        let texts = [&root, &archive, problem.as_ref().unwrap_or(&root)];
        if to < from || texts.iter().any(|text| text.len() > REASON_BYTES_MAX) {
            let reason = format!(
                "a restore test has a range, and texts of at most {REASON_BYTES_MAX} bytes"
            );
            return Err(StoreError::Invalid { reason });
        }
        let mut draft = Draft::new(RecordId((store.config().ids)()), Kind::Check)
            .with("check", "restore_test")
            .with("result", if problem.is_none() { "pass" } else { "fail" })
            .with("from", from)
            .with("to", to)
            .with("count", to - from)
            .with("archive_size", archive_size)
            .with("root", root)
            .sealed("archive", archive)
            .sealed("actor", actor);
        if let Some(problem) = problem {
            draft = draft.sealed("problem", problem);
        }
        store.append(draft).await
    }
}

/// Records what a restore test of the command line found
#[utoipa::path(
    post,
    path = "/api/v1/retention/restore-tests",
    tag = "retention",
    request_body = RestoreTest,
    responses(
        (status = 201, description = "`{\"record_id\": \"…\", \"index\": 3}`", body = Object),
        Refusals,
    )
)]
async fn record_restore_test(
    State(console): State<Arc<Console>>,
    Extension(caller): Extension<Caller>,
    body: Body,
) -> Answer {
    let test = read::<RestoreTest>(body).await?;
    if test.root.is_empty() || test.archive.is_empty() {
        return Err(ApiError::missing(vec!["from", "to", "archive_size", "root", "archive"]));
    }
    let place = test.record(&console.store, &caller.actor).await?;
    let answer = json!({"record_id": place.record_id, "index": place.index.map(|index| index.0)});
    Ok(json_response(StatusCode::CREATED, &answer))
}
