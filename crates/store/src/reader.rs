//! Reads a store without its lock, also while a gateway writes it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use countersign_ledger::disclosure::Disclosure;
use countersign_ledger::tile::TileHashReader;
use countersign_ledger::tree::{self, TreeError};
use countersign_ledger::{Checkpoint, Hash, LeafIndex, Note, TlogProof, TreeSize};
use countersign_model::{Agent, RecordId, TenantId};
use serde_json::Value;

use crate::batch::{record_bytes, record_from};
use crate::config::{Database, StoreConfig};
use crate::db::postgres::Servers;
use crate::db::{Column, Pool, Row, int, sqlite, unsigned};
use crate::index::{Index, Page, Query};
use crate::keystore::Keystore;
use crate::limits::QUERY_RECORDS_MAX;
use crate::prepare::{PRIVATE, SealedRow, joined};
use crate::publish::{CHECKPOINT, FOLDER, PublishedTiles};
use crate::subject::blocking;
use crate::{StoreError, bundles, files, registry};

/// A record as the ledger has it.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Its position in the log.
    pub index: LeafIndex,
    /// Its id.
    pub record_id: RecordId,
    /// The hash of its leaf.
    pub leaf_hash: Hash,
    /// The bytes of its leaf.
    pub body: Vec<u8>,
    /// The same as JSON.
    pub leaf: Value,
}

/// A view of a store that changes nothing but its search index.
#[derive(Clone)]
pub struct Reader {
    pub(crate) db: Pool,
    pub(crate) tenant: TenantId,
    pub(crate) keys: Option<Arc<Keystore>>,
    folder: PathBuf,
    index: Index,
}

/// Reads records of tenant `$1`, as [`read_record`] takes them.
macro_rules! select {
    ($which:literal) => {
        concat!(
            "SELECT l.idx, l.leaf_hash, i.record, i.body FROM leaf l
               JOIN intake i ON i.tenant = l.tenant AND i.replica = l.replica
                AND i.epoch = l.epoch AND i.seq = l.seq
              WHERE l.tenant = $1 AND ",
            $which
        )
    };
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("folder", &self.folder).finish_non_exhaustive()
    }
}

impl Reader {
    /// Opens a store for reading; `keys` is the keystore's folder, `keys` in the data folder if absent.
    ///
    /// Without a readable keystore everything but private fields and pseudonyms can be read.
    ///
    /// # Errors
    /// [`StoreError::Missing`], [`StoreError::Database`].
    pub async fn open(folder: &Path, keys: Option<&Path>) -> Result<Self, StoreError> {
        let path = folder.join(sqlite::FILE);
        if !path.exists() {
            return Err(StoreError::Missing(path));
        }
        let db = Pool::Sqlite(sqlite::open_readers(&path).await?);
        let tenant = db.fetch_one("SELECT tenant FROM coord", &[]).await?.get(0)?;
        Self::over(db, TenantId(tenant), folder, keys).await
    }

    /// Opens the store of a configuration for reading; with PostgreSQL the data folder has the search
    /// index alone.
    ///
    /// # Errors
    /// As [`Reader::open`]; [`StoreError::Setting`], [`StoreError::Invalid`].
    pub async fn of(folder: &Path, config: &StoreConfig) -> Result<Self, StoreError> {
        let Database::Postgres(urls) = &config.database else {
            return Self::open(folder, config.keys.as_deref()).await;
        };
        let servers = Servers::parse(urls, config.tenant.as_str())?;
        let db = servers.readers().await?;
        servers.check_schema(&db).await?;
        Self::over(db, config.tenant.clone(), folder, config.keys.as_deref()).await
    }

    async fn over(
        db: Pool,
        tenant: TenantId,
        folder: &Path,
        keys: Option<&Path>,
    ) -> Result<Self, StoreError> {
        let keys = keys.map_or_else(|| folder.join("keys"), Path::to_owned);
        let keys = Keystore::open(&keys).ok().map(Arc::new);
        let index = Index::open(folder).await?;
        Ok(Self { db, tenant, keys, folder: folder.to_owned(), index })
    }

    /// Returns the tenant whose store it is.
    #[must_use]
    pub fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    /// Returns how many leaves the log has.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn size(&self) -> Result<u64, StoreError> {
        let sql = "SELECT size FROM frontier WHERE tenant = $1";
        let row = self.db.fetch_optional(sql, &[Column::Text(self.tenant.as_str())]).await?;
        let size: Option<i64> = row.map(|row| row.get(0)).transpose()?;
        unsigned(size.unwrap_or(0), "frontier.size")
    }

    /// Returns up to `limit` records from `from` on, in the log's order.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Corrupt`].
    pub async fn range(&self, from: LeafIndex, limit: u32) -> Result<Vec<Record>, StoreError> {
        let sql = select!("l.idx >= $2 ORDER BY l.idx LIMIT $3");
        let (tenant, from) = (Column::Text(self.tenant.as_str()), Column::Int(int(from.0)));
        let limit = Column::Int(i64::from(limit.min(QUERY_RECORDS_MAX)));
        let rows = self.db.fetch_all(sql, &[tenant, from, limit]).await?;
        rows.iter().map(read_record).collect()
    }

    /// Returns the records at some positions, newest first, in one round trip.
    async fn page(&self, indexes: &[LeafIndex]) -> Result<Vec<Record>, StoreError> {
        let sql = match &self.db {
            Pool::Sqlite(_) => {
                select!("l.idx IN (SELECT value FROM json_each($2)) ORDER BY l.idx DESC")
            }
            Pool::Postgres(_) => select!(
                "l.idx IN (SELECT json_array_elements_text($2::json)::bigint) ORDER BY l.idx DESC"
            ),
        };
        let indexes: Vec<u64> = indexes.iter().map(|index| index.0).collect();
        let indexes = serde_json::json!(indexes).to_string();
        let args = [Column::Text(self.tenant.as_str()), Column::Text(&indexes)];
        self.db.fetch_all(sql, &args).await?.iter().map(read_record).collect()
    }

    /// Returns the record at a position.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Corrupt`].
    pub async fn at(&self, index: LeafIndex) -> Result<Option<Record>, StoreError> {
        let found = self.range(index, 1).await?.into_iter().next();
        Ok(found.filter(|record| record.index == index))
    }

    /// Returns the record with an id; the id of a decision is the call's evaluation id.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Corrupt`].
    pub async fn get(&self, record: RecordId) -> Result<Option<Record>, StoreError> {
        self.catch_up_index().await?;
        match self.index.position(record).await? {
            Some(index) => self.at(index).await,
            None => Ok(None),
        }
    }

    /// Returns the outcomes of a call, oldest first: a later one supersedes those before it.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Corrupt`].
    pub async fn outcomes(&self, evaluation_id: RecordId) -> Result<Vec<Record>, StoreError> {
        self.catch_up_index().await?;
        let mut outcomes = Vec::new();
        for index in self.index.children(evaluation_id).await? {
            let child = self.at(index).await?;
            let is_outcome =
                |child: &Record| child.leaf.get("kind").is_some_and(|k| k == "outcome");
            outcomes.extend(child.filter(is_outcome));
        }
        Ok(outcomes)
    }

    /// Returns records that match a query, newest first.
    ///
    /// The search index is brought up to the ledger first; records that are committed meanwhile are found
    /// by the next query.
    ///
    /// # Errors
    /// [`StoreError::NoKey`] if the query names a person and there is no keystore;
    /// [`StoreError::Database`].
    pub async fn query(&self, query: &Query) -> Result<Page, StoreError> {
        let principal = match &query.principal {
            Some(person) => Some(self.keys()?.pseudonym(person)?),
            None => query.pseudonym.clone(),
        };
        self.catch_up_index().await?;
        let found = self.index.find(query, principal.as_deref()).await?;
        let records = self.page(&found).await?;
        let limit = usize::try_from(query.limit()).unwrap_or(usize::MAX);
        let next = found.last().copied().filter(|_| found.len() == limit);
        Ok(Page { records, next })
    }

    /// Brings the search index (`index.db`) up to the ledger; returns how many leaves it was behind.
    ///
    /// The index is filled behind the ledger, never in the same transaction. It can be deleted at any time
    /// and is made again from the leaves.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Corrupt`].
    pub async fn catch_up_index(&self) -> Result<u64, StoreError> {
        self.index.catch_up(self).await
    }

    /// Returns the opened disclosures of a record.
    ///
    /// # Errors
    /// [`StoreError::NoKey`] without a keystore; [`StoreError::Unsealable`] says when the person was erased,
    /// or that the section is missing or altered.
    pub async fn disclosures(&self, record: RecordId) -> Result<Vec<Disclosure>, StoreError> {
        if let Some(disclosures) = self.section(record, PRIVATE).await? {
            return Ok(disclosures);
        }
        let Some(found) = self.get(record).await? else {
            return Ok(Vec::new());
        };
        if found.leaf.get("_sd").is_none() {
            return Ok(Vec::new());
        }
        let erased = match self.purged(found.index).await? {
            None => self.erased(&found.leaf).await?,
            purged => purged,
        };
        let reason = erased.unwrap_or_else(|| "the section or its keys are missing".to_owned());
        Err(StoreError::unsealable(record, reason))
    }

    /// Returns a private value that was too large to be disclosed as such.
    ///
    /// # Errors
    /// As [`Reader::disclosures`]; [`StoreError::Corrupt`].
    pub async fn blob(&self, record: RecordId, name: &str) -> Result<Option<Value>, StoreError> {
        let parts = self.section(record, &format!("blob/{name}")).await?.unwrap_or_default();
        let Some((_salt, parts)) = parts.split_first() else { return Ok(None) };
        serde_json::from_str(&joined(parts))
            .map(Some)
            .map_err(|_| StoreError::corrupt(format!("blob `{name}` of record `{record}`")))
    }

    /// Returns the disclosures of a section; none if it, or one of its keys, is not there.
    async fn section(
        &self,
        record: RecordId,
        section: &str,
    ) -> Result<Option<Vec<Disclosure>>, StoreError> {
        let keys = self.keys()?;
        let sql = "SELECT d.section, d.subject, d.period, d.nonce, d.ciphertext, d.dek, s.slot
               FROM sealed d LEFT JOIN subject s ON s.tenant = d.tenant AND s.subject = d.subject
              WHERE d.tenant = $1 AND d.record = $2 AND d.section = $3";
        let (tenant, id) = (Column::Text(self.tenant.as_str()), record_bytes(record));
        let args = [tenant, Column::Blob(&id), Column::Text(section)];
        let Some(row) = self.db.fetch_optional(sql, &args).await? else { return Ok(None) };
        let sealed = read_sealed(&row)?;
        let slot: Option<i64> = row.get(6)?;
        let Some(slot) = slot.and_then(|slot| u32::try_from(slot).ok()) else {
            return Ok(None);
        };
        match sealed.open(keys, self.tenant.as_str(), record, slot) {
            Ok(section) => Ok(Some(section.disclosures().to_vec())),
            Err(StoreError::NoKey(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn keys(&self) -> Result<&Keystore, StoreError> {
        self.keys.as_deref().ok_or_else(|| StoreError::NoKey("keystore".to_owned()))
    }

    /// Returns the latest published checkpoint as it was signed.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn checkpoint(&self) -> Result<Option<String>, StoreError> {
        let path = self.folder.join(FOLDER).join(CHECKPOINT);
        let Some(note) = files::read_if_there(&path)? else { return Ok(None) };
        String::from_utf8(note)
            .map(Some)
            .map_err(|_| StoreError::corrupt(format!("{}: it is not text", path.display())))
    }

    /// Returns the proof (C2SP tlog-proof) that a published checkpoint covers a record: one that witnesses
    /// cosigned if there is one, with their cosignatures, else the latest.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if no checkpoint covers it yet; [`StoreError::Corrupt`].
    pub async fn inclusion_proof(&self, index: LeafIndex) -> Result<String, StoreError> {
        // A publication in between may replace the partial tiles of the checkpoint that was read.
        match self.prove(index).await {
            Err(StoreError::Corrupt(_)) => self.prove(index).await,
            done => done,
        }
    }

    async fn prove(&self, index: LeafIndex) -> Result<String, StoreError> {
        let none = || StoreError::unavailable("no published checkpoint covers the record yet");
        let text = self.checkpoint()?.ok_or_else(none)?;
        let (latest, published) = read_checkpoint(text.as_bytes())?;
        if !published.contains(index) {
            return Err(none());
        }
        let (checkpoint, size) = match self.cosigned_over(index, published).await? {
            Some(cosigned) => read_checkpoint(&cosigned.to_bytes())?,
            None => (latest, published),
        };
        let tiles = PublishedTiles(self.folder.join(FOLDER));
        let hashes = blocking(move || {
            // Those of the latest size have what an earlier one needs, of which some may be gone.
            tree::inclusion_proof(&TileHashReader::new(tiles, published), index, size)
                .map_err(|error: TreeError| StoreError::corrupt(error.to_string()))
        })
        .await?;
        Ok(TlogProof { extra: None, index, hashes, checkpoint }.to_string())
    }

    /// Returns every agent, oldest first.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Corrupt`].
    pub async fn agents(&self) -> Result<Vec<Agent>, StoreError> {
        registry::load_agents(&self.db, self.tenant.as_str()).await
    }

    /// Returns the files of a bundle by their paths.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Corrupt`].
    pub async fn get_bundle(
        &self,
        hash: &str,
    ) -> Result<Option<BTreeMap<String, Vec<u8>>>, StoreError> {
        bundles::load_bundle(&self.db, self.tenant.as_str(), hash).await
    }

    /// Closes the database.
    pub async fn close(&self) {
        self.db.close().await;
        self.index.close().await;
    }
}

/// Reads a published checkpoint, and its size.
fn read_checkpoint(text: &[u8]) -> Result<(Note, TreeSize), StoreError> {
    let damaged = || StoreError::corrupt("the published checkpoint cannot be read");
    let note = Note::parse(text).map_err(|_| damaged())?;
    let size = Checkpoint::parse(note.text()).map_err(|_| damaged())?.size;
    Ok((note, size))
}

fn read_record(row: &Row) -> Result<Record, StoreError> {
    let (index, hash): (i64, Vec<u8>) = (row.get(0)?, row.get(1)?);
    let (record, body): (Vec<u8>, Vec<u8>) = (row.get(2)?, row.get(3)?);
    let index = LeafIndex(unsigned(index, "leaf.idx")?);
    let damaged = || StoreError::corrupt(format!("leaf {index}"));
    Ok(Record {
        index,
        record_id: record_from(&record)?,
        leaf_hash: Hash::from_slice(&hash).ok_or_else(damaged)?,
        leaf: serde_json::from_slice(&body).map_err(|_| damaged())?,
        body,
    })
}

/// Reads section, subject, period, nonce, ciphertext and key of a row, in this order.
pub(crate) fn read_sealed(row: &Row) -> Result<SealedRow, StoreError> {
    let (nonce, dek): (Vec<u8>, Vec<u8>) = (row.get(3)?, row.get(5)?);
    let (section, subject, period): (String, String, String) =
        (row.get(0)?, row.get(1)?, row.get(2)?);
    SealedRow::read(section, subject, period, &nonce, row.get(4)?, &dek)
        .ok_or_else(|| StoreError::corrupt("sealed: a nonce or wrapped key has a wrong length"))
}
