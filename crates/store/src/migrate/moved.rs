//! The marker that keeps a ledger from going on in SQLite once it may be in PostgreSQL.
//!
//! It is written before the copy is committed, and taken away only if PostgreSQL said that it undid the copy.
//! So no moment, and no crash, leaves two places where the ledger can grow.

use std::path::Path;
use std::str::FromStr as _;

use serde::{Deserialize, Serialize};
use sqlx::postgres::PgConnectOptions;

use crate::StoreError;
use crate::files::{Access, AtPath as _, read_if_there, sync_folder, write_atomic};

/// The marker's file in the data folder.
const FILE: &str = "moved.json";

/// Says where a ledger went, or may have gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Marker {
    /// The servers, as [`places`] names them.
    pub(crate) to: Vec<String>,
    /// Leaves of the log that moved.
    pub(crate) size: u64,
    /// The root over them, in hexadecimal.
    pub(crate) root: String,
}

/// Names the databases of URLs without users and passwords: `postgres://db1:5432/countersign`, in order.
pub(crate) fn places(urls: &[String]) -> Result<Vec<String>, StoreError> {
    let place = |url: &String| {
        let options = PgConnectOptions::from_str(url)?;
        let socket = options.get_socket().map(|path| path.display().to_string());
        let host = socket.unwrap_or_else(|| options.get_host().to_owned());
        let database = options.get_database().unwrap_or_else(|| options.get_username());
        Ok(format!("postgres://{host}:{}/{database}", options.get_port()))
    };
    let mut places = urls.iter().map(place).collect::<Result<Vec<_>, StoreError>>()?;
    places.sort();
    Ok(places)
}

impl Marker {
    /// Reads the marker of a data folder, if there is one.
    pub(crate) fn read(folder: &Path) -> Result<Option<Self>, StoreError> {
        let Some(bytes) = read_if_there(&folder.join(FILE))? else { return Ok(None) };
        let marker = serde_json::from_slice(&bytes);
        marker.map(Some).map_err(|error| StoreError::corrupt(format!("`{FILE}`: {error}")))
    }

    /// Writes the marker; when this returns, a loss of power does not undo it.
    pub(crate) fn write(&self, folder: &Path) -> Result<(), StoreError> {
        let text = serde_json::to_vec(self)
            .map_err(|error| StoreError::corrupt(format!("`{FILE}`: {error}")))?;
        write_atomic(&folder.join(FILE), &text, Access::Private)
    }

    /// Takes the marker away: it is certain that the copy was undone.
    pub(crate) fn remove(folder: &Path) -> Result<(), StoreError> {
        let path = folder.join(FILE);
        std::fs::remove_file(&path).at(&path)?;
        sync_folder(folder)
    }
}

/// Returns the databases that the ledger of a data folder moved to, or may have, and its size then, if
/// `migrate` left its marker there.
///
/// # Errors
/// [`StoreError::Corrupt`], [`StoreError::Io`].
pub fn moved_to(folder: &Path) -> Result<Option<(String, u64)>, StoreError> {
    let marker = Marker::read(folder)?;
    Ok(marker.map(|Marker { to, size, .. }| (to.join(", "), size)))
}

/// Checks that the ledger of a data folder is still the one in SQLite.
///
/// # Errors
/// [`StoreError::Elsewhere`] if there is a marker, [`StoreError::Corrupt`] if it cannot be read.
pub(crate) fn must_be_here(folder: &Path) -> Result<(), StoreError> {
    match moved_to(folder)? {
        None => Ok(()),
        Some((to, size)) => Err(StoreError::Elsewhere { to, size }),
    }
}
