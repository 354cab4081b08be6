//! The description of the API (OpenAPI 3.1), made from the routes themselves.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{Components, OpenApi};
use utoipa::{IntoParams, IntoResponses, Modify, OpenApi as _};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::answer::{ErrorBody, JSON, with_body};
use crate::{Console, api, consistency, read, retention, token_routes};

/// What the description says of the whole.
#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "Countersign control plane",
        version = "1",
        description = "Records, proofs and administration. Every route takes a token of the control plane; an \
            agent's key works on none. What is read is itself on record.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    modifiers(&Bearer),
    security(("bearer" = []))
)]
struct Whole;

/// The one way to say who asks.
struct Bearer;

impl Modify for Bearer {
    fn modify(&self, api: &mut OpenApi) {
        let mut scheme = Http::new(HttpAuthScheme::Bearer);
        scheme.description = Some("`Authorization: Bearer cst_…`".to_owned());
        let components = api.components.get_or_insert_with(Components::new);
        components.add_security_scheme("bearer", SecurityScheme::Http(scheme));
    }
}

/// Makes the routes of the API and its description.
pub(crate) fn routes() -> (Router<Arc<Console>>, String) {
    let (router, api) = OpenApiRouter::with_openapi(Whole::openapi())
        .routes(routes!(read::list_records))
        .routes(routes!(read::list_audit))
        .routes(routes!(read::list_tenant_audit))
        .routes(routes!(read::show_record))
        .routes(routes!(read::prove_record))
        .routes(routes!(consistency::consistency))
        .merge(token_routes::routes())
        .merge(api::routes())
        .merge(retention::routes())
        .split_for_parts();
    // The description is of plain texts and numbers; writing it does not fail.
    let text = api.to_pretty_json().unwrap_or_default() + "\n";
    (router.route("/api/v1/openapi.json", get(describe)), text)
}

async fn describe(State(console): State<Arc<Console>>) -> Response {
    with_body(StatusCode::OK, Body::from(console.openapi.clone()), JSON, "no-store")
}

/// The parameters of a list.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "a description; the parameters are read by `Listing`")]
pub(crate) struct ListParams {
    /// Records of this agent, by name or id
    agent: Option<String>,
    /// Records about this person, service account or organisation
    principal: Option<String>,
    /// Calls of this tool, `<server>/<tool>`
    tool: Option<String>,
    /// Decisions that this policy determined
    policy: Option<String>,
    /// `allow`, `deny` or `hold`
    decision: Option<String>,
    /// `accepted` or `rejected` (also `auth_failed`) of credentials; `executed`, `failed`, `not_forwarded` or
    /// `unknown` of calls
    result: Option<String>,
    /// The kind of record: `decision`, `outcome`, `auth`, `change`, …
    kind: Option<String>,
    /// The first moment: RFC 3339, or a date (UTC)
    from: Option<String>,
    /// The first moment that is left out: RFC 3339, or a date, of which nothing is included
    to: Option<String>,
    /// Records on a page
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<u32>,
    /// `next_cursor` of the page before
    cursor: Option<String>,
    /// `record`, or `acp` for calls in the shape of Agentic Control Plane, which takes the role `auditor`
    shape: Option<String>,
    /// `json` or `csv`; wins over `Accept`
    format: Option<String>,
}

/// How a request that reads is refused.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "a description; refusals are made by `ApiError`")]
pub(crate) enum ReadRefusals {
    /// A parameter is wrong or unknown; `fields` names it
    #[response(status = 400)]
    BadParameter(ErrorBody),
    /// There is no good token
    #[response(status = 401)]
    Unauthorized(ErrorBody),
    /// The token's role does not suffice; `needs` names the one that does
    #[response(status = 403)]
    Forbidden(ErrorBody),
    /// The ledger cannot record the reading, or no published checkpoint covers the record yet
    #[response(status = 503)]
    Unavailable(ErrorBody),
}

/// How a request is refused that asks for what only administrators see.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "a description; refusals are made by `ApiError`")]
pub(crate) enum Denied {
    /// There is no good token
    #[response(status = 401)]
    Unauthorized(ErrorBody),
    /// The token's role does not suffice; `needs` names the one that does
    #[response(status = 403)]
    Forbidden(ErrorBody),
}

/// How a request that changes something is refused.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "a description; refusals are made by `ApiError`")]
pub(crate) enum Refusals {
    /// The body is not JSON
    #[response(status = 400)]
    Unreadable(ErrorBody),
    /// There is no good token
    #[response(status = 401)]
    Unauthorized(ErrorBody),
    /// The token's role does not suffice; `needs` names the one that does
    #[response(status = 403)]
    Forbidden(ErrorBody),
    /// There is nothing with this name
    #[response(status = 404)]
    NotFound(ErrorBody),
    /// It contradicts what is there
    #[response(status = 409)]
    Conflict(ErrorBody),
    /// Fields are missing or wrong; `fields` names them
    #[response(status = 422)]
    Invalid(ErrorBody),
    /// The ledger cannot record the change, or the gateway does not answer
    #[response(status = 503)]
    Unavailable(ErrorBody),
}
