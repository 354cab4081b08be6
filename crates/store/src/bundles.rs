//! Policy bundles by their hash.

use std::collections::BTreeMap;
use std::sync::Arc;

use countersign_model::{Draft, Kind};

use crate::db::{Column, Pool};
use crate::effect::{Effect, bundle_sum};
use crate::limits::BUNDLE_BYTES_MAX;
use crate::{Appended, Store, StoreError};

impl Store {
    /// Keeps a bundle and makes it the active one; records a change if it is new or was not active.
    ///
    /// `hash` is the bundle's own hash, in lower-case hexadecimal; it is not computed again here.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] for a malformed hash, no files or more than 16 MiB of them;
    /// [`StoreError::Unavailable`].
    pub async fn put_bundle(
        &self,
        hash: &str,
        files: &BTreeMap<String, Vec<u8>>,
        actor: &str,
    ) -> Result<Option<Appended>, StoreError> {
        let is_hash =
            hash.len() == 64 && hash.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let bytes: usize = files.values().map(Vec::len).sum();
        if !is_hash || files.is_empty() || bytes > BUNDLE_BYTES_MAX {
            return Err(StoreError::invalid(
                "a bundle has a SHA-256 and 1 byte to 16 MiB of files",
            ));
        }
        let active = self.active_bundle().await?;
        if active.as_deref() == Some(hash) {
            return Ok(None);
        }
        let mut effects = vec![Effect::ActivateBundle { hash: hash.to_owned() }];
        let known = self.get_bundle(hash).await?.is_some();
        if !known {
            effects
                .push(Effect::PutBundle { hash: hash.to_owned(), files: Arc::new(files.clone()) });
        }
        let draft = Draft::new(self.new_id(), Kind::Change)
            .with("object", "bundle")
            .with("action", if known { "activated" } else { "added" })
            .with("bundle", hash)
            .with_some("before", active)
            .about(actor);
        self.append_with(draft, effects).await.map(Some)
    }

    /// Returns the hash of the active bundle.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn active_bundle(&self) -> Result<Option<String>, StoreError> {
        let sql = "SELECT hash FROM active_bundle WHERE tenant = $1";
        let tenant = Column::Text(self.inner.config.tenant.as_str());
        let row = self.inner.read.fetch_optional(sql, &[tenant]).await?;
        Ok(row.map(|row| row.get(0)).transpose()?)
    }

    /// Returns the files of a bundle by their paths.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] if a file is not what was put; [`StoreError::Database`].
    pub async fn get_bundle(
        &self,
        hash: &str,
    ) -> Result<Option<BTreeMap<String, Vec<u8>>>, StoreError> {
        load_bundle(&self.inner.read, self.inner.config.tenant.as_str(), hash).await
    }
}

/// Reads a bundle's files.
pub(crate) async fn load_bundle(
    db: &Pool,
    tenant: &str,
    hash: &str,
) -> Result<Option<BTreeMap<String, Vec<u8>>>, StoreError> {
    let sql = "SELECT path, content, sum FROM bundle WHERE tenant = $1 AND hash = $2";
    let rows = db.fetch_all(sql, &[Column::Text(tenant), Column::Text(hash)]).await?;
    let mut files = BTreeMap::new();
    for row in rows {
        let (path, content): (String, Vec<u8>) = (row.get(0)?, row.get(1)?);
        if row.get::<Vec<u8>>(2)? != bundle_sum(tenant, hash, &path, &content) {
            return Err(StoreError::corrupt(format!("bundle `{hash}`, file `{path}`")));
        }
        files.insert(path, content);
    }
    Ok((!files.is_empty()).then_some(files))
}
