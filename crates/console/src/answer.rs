//! The one place that turns results and errors into responses.

use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, WWW_AUTHENTICATE};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use countersign_evidence::EvidenceError;
use countersign_model::NewAgentError;
use countersign_store::StoreError;
use serde::Serialize;
use utoipa::ToSchema;

use crate::role::Role;
use crate::{OperatorError, TokensError};

/// A refusal; its body is an [`ErrorBody`].
#[derive(Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: String,
    /// The fields that are missing (R-020) or wrong.
    fields: Vec<String>,
    /// The role that it takes.
    needs: Option<Role>,
}

impl ApiError {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), fields: Vec::new(), needs: None }
    }

    pub(crate) fn not_found(message: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "NOT_FOUND", message)
    }

    pub(crate) fn method_not_allowed() -> Self {
        let message = "the route does not have this method";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED", message)
    }

    pub(crate) fn unauthorized() -> Self {
        let message = "this needs a token of the control plane as `Authorization: Bearer cst_…`";
        Self::new(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", message)
    }

    pub(crate) fn forbidden(needed: Role, has: Role) -> Self {
        let message = format!("this needs the role `{needed}`, and the token has `{has}`");
        Self { needs: Some(needed), ..Self::new(StatusCode::FORBIDDEN, "FORBIDDEN", message) }
    }

    pub(crate) fn foreign_host() -> Self {
        let message = "the `Host` header names a host that is not served here";
        Self::new(StatusCode::FORBIDDEN, "FOREIGN_HOST", message)
    }

    pub(crate) fn too_large(bytes_max: usize) -> Self {
        let message = format!("a body has at most {bytes_max} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "TOO_LARGE", message)
    }

    pub(crate) fn unreadable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BAD_REQUEST", message)
    }

    /// Refuses a parameter of the query.
    pub(crate) fn parameter(name: &str, message: impl Into<String>) -> Self {
        let fields = vec![name.to_owned()];
        let message = format!("`{name}`: {}", message.into());
        Self { fields, ..Self::new(StatusCode::BAD_REQUEST, "BAD_PARAMETER", message) }
    }

    pub(crate) fn gone(message: impl Into<String>) -> Self {
        Self::new(StatusCode::GONE, "GONE", message)
    }

    pub(crate) fn timeout(message: &str) -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "TIMEOUT", message)
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "INVALID", message)
    }

    pub(crate) fn missing(fields: Vec<&'static str>) -> Self {
        let message = format!("these fields are missing: {}", fields.join(", "));
        let fields = fields.into_iter().map(str::to_owned).collect();
        let status = StatusCode::UNPROCESSABLE_ENTITY;
        Self { fields, ..Self::new(status, "MISSING_FIELDS", message) }
    }

    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE", message)
    }

    /// Hides what is for the log alone.
    pub(crate) fn internal(error: &dyn std::fmt::Display) -> Self {
        tracing::error!(%error, "a request of the control plane failed");
        let message = "the request failed; the gateway's log says why";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL", message)
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        let message = error.to_string();
        match error {
            StoreError::NewAgent(NewAgentError::Missing { fields }) => Self::missing(fields),
            StoreError::NewAgent(_) | StoreError::Invalid { .. } | StoreError::TooLarge { .. } => {
                Self::invalid(message)
            }
            StoreError::NameTaken(_) => Self::new(StatusCode::CONFLICT, "NAME_TAKEN", message),
            StoreError::Held(_) | StoreError::Hold(_) => {
                Self::new(StatusCode::CONFLICT, "LEGAL_HOLD", message)
            }
            StoreError::ClockGap { .. } => Self::new(StatusCode::CONFLICT, "CLOCK_GAP", message),
            StoreError::UnknownAgent(_)
            | StoreError::UnknownRecord(_)
            | StoreError::UnknownSubject(_) => Self::not_found(&message),
            StoreError::Unavailable { .. } | StoreError::Overtaken => Self::unavailable(message),
            StoreError::Locked(_)
            | StoreError::Missing(_)
            | StoreError::Exists(_)
            | StoreError::Behind { .. }
            | StoreError::Forked { .. }
            | StoreError::Corrupt(_)
            | StoreError::Setting { .. }
            | StoreError::NoKey(_)
            | StoreError::Unsealable { .. }
            | StoreError::Io { .. }
            | StoreError::Random(_)
            | StoreError::Database(_)
            | _ => Self::internal(&message),
        }
    }
}

impl From<EvidenceError> for ApiError {
    fn from(error: EvidenceError) -> Self {
        let message = error.to_string();
        match error {
            EvidenceError::Store(error) => error.into(),
            EvidenceError::UnknownRecord(_) => Self::not_found(&message),
            EvidenceError::UnknownAgent(_) => Self::parameter("agent", message),
            EvidenceError::BadFilter { name, .. } => Self::parameter(name, message),
            EvidenceError::NotARecord { .. }
            | EvidenceError::NoDecision { .. }
            | EvidenceError::EmptyPeriod
            | EvidenceError::BadTime(_)
            | EvidenceError::MalformedFile(_)
            | EvidenceError::NotProven { .. }
            | EvidenceError::Csv(_)
            | _ => Self::internal(&message),
        }
    }
}

impl From<TokensError> for ApiError {
    fn from(error: TokensError) -> Self {
        let message = error.to_string();
        match error {
            TokensError::Missing(fields) => Self::missing(fields),
            TokensError::BadName(_) | TokensError::BadRole(_) | TokensError::BadExpiry(_) => {
                Self::invalid(message)
            }
            TokensError::NameTaken(_) => Self::new(StatusCode::CONFLICT, "NAME_TAKEN", message),
            TokensError::Revoked(_) | TokensError::TooMany => {
                Self::new(StatusCode::CONFLICT, "CONFLICT", message)
            }
            TokensError::Unknown(_) => Self::not_found(&message),
            TokensError::Store(error) => error.into(),
            TokensError::Io { .. } | TokensError::Malformed { .. } | TokensError::Random(_) => {
                Self::internal(&message)
            }
        }
    }
}

impl From<OperatorError> for ApiError {
    fn from(error: OperatorError) -> Self {
        let message = error.to_string();
        match error {
            OperatorError::Unknown(_) => Self::not_found(&message),
            OperatorError::Conflict(_) => Self::new(StatusCode::CONFLICT, "CONFLICT", message),
            OperatorError::Invalid(_) => Self::invalid(message),
            OperatorError::Unavailable(_) => Self::unavailable(message),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let Self { status, code, message, fields, needs } = self;
        let error = ErrorDetail { code: code.to_owned(), message, fields, needs };
        let mut response = json_response(status, &ErrorBody { error });
        let challenge = match status {
            StatusCode::UNAUTHORIZED => Some("Bearer"),
            // RFC 6750, section 3.1.
            StatusCode::FORBIDDEN if needs.is_some() => {
                Some(r#"Bearer error="insufficient_scope""#)
            }
            _ => None,
        };
        if let Some(challenge) = challenge {
            let headers = response.headers_mut();
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        response
    }
}

/// The body of every refusal.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ErrorBody {
    error: ErrorDetail,
}

/// Why a request was refused.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ErrorDetail {
    /// A stable code.
    #[schema(example = "BAD_PARAMETER")]
    code: String,
    /// What is wrong, for people.
    message: String,
    /// The fields or parameters that are missing or wrong.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    fields: Vec<String>,
    /// The role that the request takes, if the token's does not suffice.
    #[serde(skip_serializing_if = "Option::is_none")]
    needs: Option<Role>,
}

/// Gives a JSON response that nobody keeps: it may show a key.
pub(crate) fn json_response(status: StatusCode, body: &impl Serialize) -> Response {
    match serde_json::to_vec(body) {
        Ok(body) => with_body(status, Body::from(body), JSON, "no-store"),
        Err(error) => {
            tracing::error!(%error, "an answer cannot be written as JSON");
            let status = StatusCode::INTERNAL_SERVER_ERROR;
            with_body(status, Body::empty(), JSON, "no-store")
        }
    }
}

/// The media type of JSON.
pub(crate) const JSON: &str = "application/json";

/// Gives a response with a media type and a rule for caches.
pub(crate) fn with_body(
    status: StatusCode,
    body: Body,
    media: &'static str,
    cache: &'static str,
) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static(cache));
    const NO_SNIFF: HeaderName = axum::http::header::X_CONTENT_TYPE_OPTIONS;
    headers.insert(NO_SNIFF, HeaderValue::from_static("nosniff"));
    response
}
