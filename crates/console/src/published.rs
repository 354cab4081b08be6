//! The published log, read from its folder (C2SP tlog-tiles).

use std::io;
use std::path::Path;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path as Captured, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;
use axum::{Extension, Router};
use countersign_ledger::{TileKind, TilePath};

use crate::Console;
use crate::access::{self, Access};
use crate::answer::{ApiError, with_body};
use crate::limits::LOG_FILE_BYTES_MAX;
use crate::role::Caller;

/// The latest checkpoint's file.
const CHECKPOINT: &str = "checkpoint";

pub(crate) fn routes() -> Router<Arc<Console>> {
    Router::new()
        .route("/log/{tenant}/checkpoint", get(checkpoint))
        .route("/log/{tenant}/tile/{*path}", get(tile))
}

async fn checkpoint(
    State(console): State<Arc<Console>>,
    Captured(tenant): Captured<String>,
) -> Result<Response, ApiError> {
    let bytes = read(&console, &tenant, CHECKPOINT).await?;
    Ok(with_body(StatusCode::OK, bytes, "text/plain; charset=utf-8", "public, max-age=1"))
}

/// Serves a hash tile or an entry bundle. Only what is exactly the path of one is looked for.
async fn tile(
    State(console): State<Arc<Console>>,
    caller: Option<Extension<Caller>>,
    Captured((tenant, path)): Captured<(String, String)>,
) -> Result<Response, ApiError> {
    let path = TilePath::parse(&format!("tile/{path}"))
        .map_err(|_| ApiError::not_found("this is not the path of a tile"))?;
    let cache = match path.kind() {
        TileKind::Hashes(_) => "public, max-age=31536000, immutable",
        TileKind::Entries => "private, max-age=31536000, immutable",
    };
    let bytes = read(&console, &tenant, &path.to_string()).await?;
    if let (TileKind::Entries, Some(Extension(caller))) = (path.kind(), caller) {
        let route = "/log/{tenant}/tile/entries/{path}";
        let count = usize::from(path.width());
        access::record(&console, &caller, Access { route, count, ..Access::default() }).await?;
    }
    Ok(with_body(StatusCode::OK, bytes, "application/octet-stream", cache))
}

async fn read(console: &Console, tenant: &str, file: &str) -> Result<Body, ApiError> {
    let missing = || ApiError::not_found("the log has no such file");
    if tenant != console.store.config().tenant.as_str() {
        return Err(missing());
    }
    match read_bounded(&console.log.join(file)).await {
        Ok(bytes) => Ok(Body::from(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(missing()),
        Err(error) => Err(ApiError::internal(&error)),
    }
}

async fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let about = tokio::fs::metadata(path).await?;
    if !about.is_file() {
        return Err(io::ErrorKind::NotFound.into());
    }
    if about.len() > LOG_FILE_BYTES_MAX {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    tokio::fs::read(path).await
}
