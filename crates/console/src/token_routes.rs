//! Named tokens over HTTP.

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::answer::{ApiError, json_response};
use crate::api::read;
use crate::openapi::{Denied, Refusals};
use crate::role::Caller;
use crate::{Console, NewToken, TokenInfo};

type Answer = Result<Response, ApiError>;

pub(crate) fn routes() -> OpenApiRouter<Arc<Console>> {
    OpenApiRouter::default().routes(routes!(list_tokens, add_token)).routes(routes!(revoke_token))
}

/// All named tokens.
#[derive(Serialize, ToSchema)]
struct TokenList {
    tokens: Vec<TokenInfo>,
}

/// One named token.
#[derive(Serialize, ToSchema)]
struct OneToken {
    token: TokenInfo,
}

/// A new token.
#[derive(Serialize, ToSchema)]
struct MadeToken<'a> {
    token: TokenInfo,
    /// The token's text; it is not shown again.
    #[schema(example = "cst_…")]
    secret: &'a str,
}

/// Lists all named tokens, without their secrets
#[utoipa::path(
    get,
    path = "/api/v1/tokens",
    tag = "tokens",
    responses((status = 200, description = "All tokens, oldest first", body = TokenList), Denied)
)]
async fn list_tokens(State(console): State<Arc<Console>>) -> Response {
    json_response(StatusCode::OK, &TokenList { tokens: console.tokens.list() })
}

/// Makes a named token; the answer is the only time that it is seen
#[utoipa::path(
    post,
    path = "/api/v1/tokens",
    tag = "tokens",
    request_body = NewToken,
    responses((status = 201, description = "The token", body = MadeToken<'static>), Refusals)
)]
async fn add_token(
    State(console): State<Arc<Console>>,
    Extension(caller): Extension<Caller>,
    body: Body,
) -> Answer {
    let new: NewToken = read(body).await?;
    let (token, text) = console.tokens.add(&console.store, &new, &caller.actor).await?;
    let made = MadeToken { token, secret: text.as_str() };
    Ok(json_response(StatusCode::CREATED, &made))
}

/// Refuses a named token from now on
#[utoipa::path(
    post,
    path = "/api/v1/tokens/{name}/revoke",
    tag = "tokens",
    params(("name" = String, Path, description = "The token's name")),
    responses((status = 200, description = "The token", body = OneToken), Refusals)
)]
async fn revoke_token(
    State(console): State<Arc<Console>>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
) -> Answer {
    let token = console.tokens.revoke(&console.store, &name, &caller.actor).await?;
    Ok(json_response(StatusCode::OK, &OneToken { token }))
}
