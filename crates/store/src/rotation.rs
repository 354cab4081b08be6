//! Records that the signing key is replaced, once for each replacement.
//!
//! The signer makes the new key and signs with both from then on. The process that gets checkpoints signed
//! learns of it there, appends the `key` leaf, and shows the signer that the leaf is in a tree that both
//! keys signed. Only then may the old key go. What a crash leaves undone is done at a later publication.

use countersign_ledger::leaf::Leaf;
use countersign_ledger::tile::TileHashReader;
use countersign_ledger::{LeafIndex, TreeSize, tree};
use countersign_model::{Draft, Kind};

use crate::db::{Column, Pool, int, unsigned};
use crate::publish::{PublishedTiles, Publisher};
use crate::signer::{PendingRotation, Recorded};
use crate::subject::blocking;
use crate::{Store, StoreError};

/// A replacement that the signer has not seen recorded yet.
pub(crate) struct Replacement {
    statement: String,
    /// The `key` leaf is not among this many first leaves.
    since: u64,
    /// Whether this process has appended the leaf.
    appended: bool,
}

impl Replacement {
    /// Takes over what the signer says.
    pub(crate) fn of(rotation: Option<&PendingRotation>, known: Option<Self>) -> Option<Self> {
        let pending = rotation.filter(|pending| pending.leaf.is_none())?;
        let statement = pending.statement.clone();
        let appended = known.is_some_and(|known| known.appended && known.statement == statement);
        Some(Self { statement, since: pending.since, appended })
    }
}

impl Store {
    /// Brings a replacement of the signing key as far as what was published allows.
    pub(crate) async fn record_rotation(&self) -> Result<(), StoreError> {
        let mut publisher = self.inner.publishing.lock().await;
        if !publisher.leads() {
            return Ok(());
        }
        let Some(rotation) = &publisher.rotation else { return Ok(()) };
        let found = find(&self.inner.read, &publisher.tenant, rotation).await?;
        let Some((index, body)) = found else {
            if !rotation.appended {
                let statement = rotation.statement.clone();
                let draft = Draft::new(self.new_id(), Kind::Key).with("rotation", statement);
                self.append(draft).await?;
                publisher.rotation.iter_mut().for_each(|rotation| rotation.appended = true);
                tracing::info!("the replacement of the signing key is recorded");
            }
            return Ok(());
        };
        if index < publisher.published {
            publisher.show_leaf(index, body).await?;
            publisher.rotation = None;
        }
        Ok(())
    }
}

impl Publisher {
    /// Shows the signer that the published tree, which it signed last, has the `key` leaf.
    async fn show_leaf(&self, index: u64, leaf: Vec<u8>) -> Result<(), StoreError> {
        let (tiles, size) = (PublishedTiles(self.folder.clone()), TreeSize(self.published));
        let proof = blocking(move || {
            tree::inclusion_proof(&TileHashReader::new(tiles, size), LeafIndex(index), size)
                .map_err(|error| StoreError::corrupt(error.to_string()))
        });
        self.signer.recorded(Recorded { index, leaf, proof: proof.await? }).await
    }
}

/// Returns the leaf of a replacement with its place, if it has one yet.
async fn find(
    db: &Pool,
    tenant: &str,
    rotation: &Replacement,
) -> Result<Option<(u64, Vec<u8>)>, StoreError> {
    let sql = "SELECT l.idx, i.body FROM leaf l JOIN intake i ON i.tenant = l.tenant
            AND i.replica = l.replica AND i.epoch = l.epoch AND i.seq = l.seq
          WHERE l.tenant = $1 AND l.idx >= $2 AND i.kind = 'key' ORDER BY l.idx";
    let args = [Column::Text(tenant), Column::Int(int(rotation.since))];
    for row in &db.fetch_all(sql, &args).await? {
        let (index, body): (i64, Vec<u8>) = (row.get(0)?, row.get(1)?);
        let leaf = Leaf::parse(&body).map_err(|error| StoreError::corrupt(error.to_string()))?;
        if leaf.rotation.as_deref() == Some(&rotation.statement) {
            return Ok(Some((unsigned(index, "leaf.idx")?, body)));
        }
    }
    Ok(None)
}
