//! What others add to a checkpoint after it was signed: cosignatures of witnesses, timestamps.

use countersign_ledger::note::Signature;
use countersign_ledger::tile::TileHashReader;
use countersign_ledger::verify::COSIGNED_PREFIX;
use countersign_ledger::{Checkpoint, Hash, LeafIndex, Note, TreeSize, tree};
use tokio::sync::oneshot;

use crate::db::{Column, Conn, int, row_sum, with_sum};
use crate::files::{Access, make_folder, read_if_there, write_staged};
use crate::publish::{CHECKPOINT, FOLDER, PublishedTiles};
use crate::subject::blocking;
use crate::writer::Message;
use crate::{Reader, Store, StoreError};

/// The kind of anchor that is a witness's cosignature; its source is the witness's key, name and id.
const COSIGNATURE: &str = "cosignature";

/// A row of `anchor`.
pub(crate) struct Anchor {
    size: u64,
    kind: &'static str,
    source: String,
    body: Vec<u8>,
}

impl Anchor {
    /// Writes the row; a newer anchor of the same source replaces the older one.
    pub(crate) async fn put(&self, conn: &mut Conn, tenant: &str) -> Result<(), sqlx::Error> {
        let size = int(self.size);
        let row = [
            Column::Text(tenant),
            Column::Int(size),
            Column::Text(self.kind),
            Column::Text(&self.source),
            Column::Blob(&self.body),
        ];
        conn.execute(
            "INSERT INTO anchor (tenant, size, kind, source, body, sum)
             VALUES ($1, $2, $3, $4, $5, $6)
             ON CONFLICT (tenant, size, kind, source) DO UPDATE SET body = excluded.body,
             sum = excluded.sum",
            &with_sum(&row, &row_sum("anchor", &row)),
        )
        .await?;
        Ok(())
    }
}

impl Store {
    /// Returns the published checkpoint as it was signed; `None` before the first.
    ///
    /// # Errors
    /// [`StoreError::Io`]; [`StoreError::Corrupt`] if it cannot be read.
    pub async fn published_checkpoint(&self) -> Result<Option<(Checkpoint, Note)>, StoreError> {
        let path = self.inner.folder.join(FOLDER).join(CHECKPOINT);
        blocking(move || {
            let Some(bytes) = read_if_there(&path)? else { return Ok(None) };
            let damaged =
                |reason: String| StoreError::corrupt(format!("{}: {reason}", path.display()));
            let note = Note::parse(&bytes).map_err(|error| damaged(error.to_string()))?;
            let point =
                Checkpoint::parse(note.text()).map_err(|error| damaged(error.to_string()))?;
            Ok(Some((point, note)))
        })
        .await
    }

    /// Returns the proof that the published tree of `new` leaves begins with that of `old`.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] if the published tiles do not have it: `new` is not published, or not any
    /// more, and tiles of a later size replaced its own.
    pub async fn consistency_proof(
        &self,
        old: TreeSize,
        new: TreeSize,
    ) -> Result<Vec<Hash>, StoreError> {
        let tiles = PublishedTiles(self.inner.folder.join(FOLDER));
        blocking(move || {
            tree::consistency_proof(&TileHashReader::new(tiles, new), old, new)
                .map_err(|error| StoreError::corrupt(error.to_string()))
        })
        .await
    }

    /// Stores a witness's cosignature of the checkpoint of `size`; the caller has verified it.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Database`].
    pub async fn put_cosignature(
        &self,
        size: TreeSize,
        cosignature: &Signature,
    ) -> Result<(), StoreError> {
        let anchor = Anchor {
            size: size.0,
            kind: COSIGNATURE,
            source: format!("{}+{}", cosignature.name(), cosignature.id()),
            body: cosignature.to_string().into_bytes(),
        };
        let (reply, answer) = oneshot::channel();
        self.send(Message::Anchor { anchor, reply }).await?;
        answer.await.unwrap_or_else(|_| Err(StoreError::unavailable("the store is closed")))
    }

    /// Publishes a checkpoint with the cosignatures in `note`; the caller has verified them. Those that it was
    /// published with before stay: a witness that is asked again states another time.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub async fn publish_cosigned(&self, size: TreeSize, note: &Note) -> Result<(), StoreError> {
        let folder = self.inner.folder.join(FOLDER);
        let path = folder.join(format!("{COSIGNED_PREFIX}{size}"));
        let note = note.clone();
        blocking(move || {
            let kept = read_if_there(&path)?.and_then(|bytes| Note::parse(&bytes).ok());
            let whole = match kept.filter(|kept| kept.text() == note.text()) {
                None => note,
                Some(mut kept) => {
                    let added = note.signatures().iter().filter(|new| kept.add_once(new)).count();
                    if added == 0 {
                        return Ok(());
                    }
                    kept
                }
            };
            path.parent().map_or(Ok(()), make_folder)?;
            let staged = folder.join(".cosigned.new");
            write_staged(&path, &staged, &whole.to_bytes(), Access::Shared)
        })
        .await
    }

    /// Puts a token of a timestamp authority beside the published checkpoint that it stamps, at `path` in
    /// the published log; the caller has verified it.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub async fn put_timestamp(&self, path: &str, token: Vec<u8>) -> Result<(), StoreError> {
        let folder = self.inner.folder.join(FOLDER);
        let path = folder.join(path);
        blocking(move || {
            path.parent().map_or(Ok(()), make_folder)?;
            write_staged(&path, &folder.join(".timestamp.new"), &token, Access::Shared)
        })
        .await
    }
}

impl Reader {
    /// Returns the newest checkpoint that witnesses cosigned, with their cosignatures; `None` if there
    /// is none.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Corrupt`].
    pub async fn cosigned_checkpoint(&self) -> Result<Option<Note>, StoreError> {
        let newest = "SELECT size FROM anchor WHERE tenant = $1 AND kind = $2
              ORDER BY size DESC LIMIT 1";
        self.cosigned(newest, &[]).await
    }

    /// Returns the checkpoint of at most `published` leaves that covers leaf `index` and that the most
    /// witnesses cosigned, of several the newest, with their cosignatures.
    pub(crate) async fn cosigned_over(
        &self,
        index: LeafIndex,
        published: TreeSize,
    ) -> Result<Option<Note>, StoreError> {
        let most = "SELECT size FROM anchor
              WHERE tenant = $1 AND kind = $2 AND size > $3 AND size <= $4
              GROUP BY size ORDER BY count(*) DESC, size DESC LIMIT 1";
        self.cosigned(most, &[Column::Int(int(index.0)), Column::Int(int(published.0))]).await
    }

    /// Returns the cosigned checkpoint of the size that `of` selects.
    async fn cosigned(
        &self,
        of: &'static str,
        more: &[Column<'_>],
    ) -> Result<Option<Note>, StoreError> {
        let (tenant, kind) = (Column::Text(self.tenant.as_str()), Column::Text(COSIGNATURE));
        let found = self.db.fetch_optional(of, &[&[tenant, kind], more].concat()).await?;
        let Some(found) = found else { return Ok(None) };
        let sql = "SELECT c.note, a.body FROM anchor a
               JOIN checkpoint c ON c.tenant = a.tenant AND c.size = a.size
              WHERE a.tenant = $1 AND a.kind = $2 AND a.size = $3 ORDER BY a.source";
        let rows = self.db.fetch_all(sql, &[tenant, kind, Column::Int(found.get(0)?)]).await?;
        let rows: Vec<(String, Vec<u8>)> = rows
            .iter()
            .map(|row| Ok((row.get(0)?, row.get(1)?)))
            .collect::<Result<_, sqlx::Error>>()?;
        let damaged = |error: countersign_ledger::note::NoteError| {
            StoreError::corrupt(format!("a cosigned checkpoint: {error}"))
        };
        let Some((note, _)) = rows.first() else { return Ok(None) };
        let mut note = Note::parse(note.as_bytes()).map_err(damaged)?;
        for (_, line) in &rows {
            note.add_once(&Signature::parse(&String::from_utf8_lossy(line)).map_err(damaged)?);
        }
        Ok(Some(note))
    }
}
