//! The one place that turns results and errors into responses.

use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, WWW_AUTHENTICATE};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use countersign_model::NewAgentError;
use countersign_store::StoreError;
use serde_json::{Value, json};

use crate::OperatorError;

/// A refusal: `{"error": {"code", "message", …}}`.
#[derive(Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: String,
    /// The missing fields, where that is what is wrong.
    fields: Vec<&'static str>,
}

impl ApiError {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), fields: Vec::new() }
    }

    pub(crate) fn not_found(message: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "NOT_FOUND", message)
    }

    pub(crate) fn method_not_allowed() -> Self {
        let message = "the route does not have this method";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED", message)
    }

    pub(crate) fn unauthorized() -> Self {
        let message = "this needs the control token as `Authorization: Bearer cst_…`";
        Self::new(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", message)
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

    pub(crate) fn timeout(message: &str) -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "TIMEOUT", message)
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "INVALID", message)
    }

    pub(crate) fn missing(fields: Vec<&'static str>) -> Self {
        let message = format!("these fields are missing: {}", fields.join(", "));
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
            StoreError::UnknownAgent(_)
            | StoreError::UnknownRecord(_)
            | StoreError::UnknownSubject(_) => Self::not_found(&message),
            StoreError::Unavailable { .. } => Self::unavailable(message),
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
        let mut error = json!({"code": self.code, "message": self.message});
        if let (false, Some(object)) = (self.fields.is_empty(), error.as_object_mut()) {
            object.insert("fields".into(), self.fields.into());
        }
        let mut response = json_response(self.status, &json!({"error": error}));
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// Gives a JSON response that nobody keeps: it may show a key.
pub(crate) fn json_response(status: StatusCode, body: &Value) -> Response {
    with_body(status, Body::from(body.to_string()), "application/json", "no-store")
}

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
