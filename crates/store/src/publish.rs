//! Signs what is durable and publishes it as a static tlog-tiles folder, `log/` in the data folder.
//!
//! Order: leaves durable, tiles and bundles written, signer's memory written, checkpoint signed and
//! stored, `checkpoints/<size>` and last `checkpoint` published. Every step can be repeated after a crash.
//! While the signer is away, nothing is published and calls go on.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use countersign_ledger::checkpoint::CheckpointError;
use countersign_ledger::note::NoteError;
use countersign_ledger::tile::{
    TileHashReader, TileReader, bundles_for_growth, encode_bundle, tile_bytes, tiles_for_growth,
};
use countersign_ledger::{
    Checkpoint, Frontier, Hash, HashReader, TilePath, TreeSize, VerifierKey, node_hash, tree,
};
use tokio::sync::oneshot;
use tokio::time::{Instant, MissedTickBehavior};

use crate::config::StoreConfig;
use crate::db::{Column, Pool, int, unsigned};
use crate::files::{Access, make_folder, read_if_there, write_atomic, write_staged};
use crate::keystore::Keystore;
use crate::rotation::Replacement;
use crate::sequencer::Sequencer;
use crate::signer::{Signer, SignerStatus, ToSign};
use crate::subject::blocking;
use crate::writer::Message;
use crate::{Store, StoreError};

/// The published log's folder in the data folder.
pub(crate) const FOLDER: &str = "log";

/// The latest checkpoint's name in the published log.
pub(crate) const CHECKPOINT: &str = "checkpoint";

/// How often the log is ordered for each publication, if several gateways write it.
const ORDERED_PER_PUBLISHED: u32 = 5;

/// Most leaves whose tiles are made at once: a whole number of level 1 tiles.
const GROWTH_LEAVES_MAX: u64 = 65_536;

/// How long a store that opens waits for a signer that is away.
const SIGNER_WAIT: Duration = Duration::from_secs(10);

/// The pause between two attempts to reach it.
const SIGNER_PAUSE: Duration = Duration::from_millis(200);

/// The keys that ever signed the log, oldest first; the publisher learns of new ones.
pub(crate) type LogKeys = Arc<RwLock<Vec<VerifierKey>>>;

/// Reads tiles from the published folder.
#[derive(Clone, Debug)]
pub(crate) struct PublishedTiles(pub(crate) PathBuf);

impl TileReader for PublishedTiles {
    type Error = StoreError;

    fn tile(&self, path: &TilePath) -> Result<Option<Vec<u8>>, StoreError> {
        read_if_there(&self.0.join(path.to_string()))
    }
}

/// Tree hashes of a grown log: old ones from its published tiles, new ones from leaf hashes.
pub(crate) struct Growth {
    published: TileHashReader<PublishedTiles>,
    /// The first leaf that is not read from tiles: the first one of a tile.
    from: u64,
    leaves: Vec<Hash>,
}

impl HashReader for Growth {
    fn node(&self, level: u8, index: u64) -> Option<Hash> {
        let first = index.checked_shl(u32::from(level))?;
        if first < self.from {
            let end = first.checked_add(1_u64.checked_shl(u32::from(level))?)?;
            if end <= self.from {
                return self.published.node(level, index);
            }
        }
        if level == 0 {
            return self.leaves.get(usize::try_from(first - self.from).ok()?).copied();
        }
        let (left, right) =
            (self.node(level - 1, index * 2)?, self.node(level - 1, index * 2 + 1)?);
        Some(node_hash(&left, &right))
    }
}

/// Where publication stands.
pub(crate) struct Publisher {
    pub(crate) folder: PathBuf,
    pub(crate) tenant: String,
    origin: String,
    pub(crate) signer: Signer,
    keystore: Arc<Keystore>,
    keys: LogKeys,
    /// A replacement of the signing key that the log has no record of yet.
    pub(crate) rotation: Option<Replacement>,
    /// Leaves whose tiles are complete on disk.
    tiled: u64,
    /// Leaves under the published checkpoint.
    pub(crate) published: u64,
    /// Orders the log, if its writers do not.
    pub(crate) sequencer: Option<Sequencer>,
}

impl Publisher {
    /// Compares what was signed and published with the database.
    pub(crate) async fn open(
        db: &Pool,
        folder: &Path,
        config: &StoreConfig,
        keys: &Arc<Keystore>,
        sequencer: Option<Sequencer>,
    ) -> Result<Self, StoreError> {
        let folder = folder.join(FOLDER);
        let tenant = config.tenant.as_str().to_owned();
        let origin = config.origin.clone();
        let signer = Signer::new(keys.folder(), &origin, config.signer.as_ref());
        let status = first_status(&signer).await?;
        keys.keep_log_keys(&origin, &status.keys)?;
        let frontier = load_frontier(db, &tenant).await?;
        let size = frontier.size().0;
        let published = read_published(&folder, &status.keys)?;
        for (what, there) in [
            ("the signer's memory", status.size),
            ("the published checkpoint", published.as_ref().map_or(0, |point| point.size.0)),
        ] {
            if there > size {
                return Err(StoreError::Behind { what, there, here: size });
            }
        }
        let published_size = published.as_ref().map_or(0, |point| point.size.0);
        let mut publisher = Self {
            folder,
            tenant,
            origin,
            signer,
            keystore: Arc::clone(keys),
            keys: Arc::new(RwLock::new(status.keys)),
            rotation: Replacement::of(status.rotation.as_ref(), None),
            tiled: published_size,
            published: published_size,
            sequencer,
        };
        if published_size == 0 {
            // Nothing is there that would be overwritten, and it may be much.
            publisher.write_tiles(db, size).await?;
        }
        let Self { folder, tenant, tiled, .. } = &publisher;
        let growth = read_growth(db, folder, tenant, *tiled, size).await?;
        let roots = published.map(|point| ("the published checkpoint", point.size.0, point.root));
        let own = ("the published log", size, frontier.root());
        let signed = ("the signer's memory", status.size, status.root);
        for (what, size, root) in [signed, own].into_iter().chain(roots) {
            if tree::root(&growth, TreeSize(size)) != Ok(root) {
                return Err(StoreError::Forked { what, size });
            }
        }
        Ok(publisher)
    }
}

/// Waits for a signer that starts at the same time: without it, what was signed cannot be compared.
async fn first_status(signer: &Signer) -> Result<SignerStatus, StoreError> {
    let until = Instant::now() + SIGNER_WAIT;
    loop {
        match signer.status().await {
            Err(StoreError::Signer(_)) if Instant::now() < until => {
                tokio::time::sleep(SIGNER_PAUSE).await;
            }
            done => return done,
        }
    }
}

/// Reads the published checkpoint, if there is one.
fn read_published(folder: &Path, keys: &[VerifierKey]) -> Result<Option<Checkpoint>, StoreError> {
    let path = folder.join(CHECKPOINT);
    let Some(note) = read_if_there(&path)? else { return Ok(None) };
    Checkpoint::open(&note, keys)
        .map(Some)
        .map_err(|error| StoreError::corrupt(format!("{}: {error}", path.display())))
}

/// Reads the leaf hashes that a log whose tiles end at `tiled` needs to grow to `size`.
async fn read_growth(
    db: &Pool,
    folder: &Path,
    tenant: &str,
    tiled: u64,
    size: u64,
) -> Result<Growth, StoreError> {
    let from = tiled / 256 * 256;
    let sql =
        "SELECT leaf_hash FROM leaf WHERE tenant = $1 AND idx >= $2 AND idx < $3 ORDER BY idx";
    let args = [Column::Text(tenant), Column::Int(int(from)), Column::Int(int(size))];
    let rows = db.fetch_all(sql, &args).await?;
    let short = || StoreError::corrupt("leaf: a hash does not have 32 bytes");
    let leaves = rows
        .iter()
        .map(|row| Hash::from_slice(&row.get::<Vec<u8>>(0)?).ok_or_else(short))
        .collect::<Result<Vec<_>, _>>()?;
    let published = TileHashReader::new(PublishedTiles(folder.to_owned()), TreeSize(tiled));
    Ok(Growth { published, from, leaves })
}

/// Reads the bodies of leaves `from..to`.
pub(crate) async fn read_bodies(
    db: &Pool,
    tenant: &str,
    from: u64,
    to: u64,
) -> Result<Vec<Vec<u8>>, StoreError> {
    let sql = "SELECT i.body FROM leaf l JOIN intake i ON i.tenant = l.tenant
            AND i.replica = l.replica AND i.epoch = l.epoch AND i.seq = l.seq
          WHERE l.tenant = $1 AND l.idx >= $2 AND l.idx < $3 ORDER BY l.idx";
    let args = [Column::Text(tenant), Column::Int(int(from)), Column::Int(int(to))];
    let rows = db.fetch_all(sql, &args).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect::<Result<_, _>>()?)
}

/// Writes the tiles and bundles of a growth.
fn write_growth(
    folder: &Path,
    growth: &Growth,
    bodies: &[Vec<u8>],
    old: u64,
    new: u64,
) -> Result<(), StoreError> {
    let broken =
        |error: countersign_ledger::tile::TileError| StoreError::corrupt(error.to_string());
    let (old, new) = (TreeSize(old), TreeSize(new));
    for bundle in bundles_for_growth(old, new) {
        let skip = usize::try_from(bundle.index() * 256 - growth.from).unwrap_or(usize::MAX);
        let entries = bodies.iter().skip(skip).take(usize::from(bundle.width()));
        write_tile(folder, &bundle, &encode_bundle(entries).map_err(broken)?)?;
    }
    for tile in tiles_for_growth(old, new) {
        write_tile(folder, &tile, &tile_bytes(growth, &tile).map_err(broken)?)?;
    }
    Ok(())
}

fn write_tile(folder: &Path, tile: &TilePath, bytes: &[u8]) -> Result<(), StoreError> {
    let path = folder.join(tile.to_string());
    if let Some(parent) = path.parent() {
        make_folder(parent)?;
    }
    // Whatever a crash leaves behind does not lie among the tiles.
    write_staged(&path, &folder.join(".tile.new"), bytes, Access::Shared)
}

/// Deletes the partial tiles that full ones replace.
fn drop_partials(folder: &Path, old: u64, new: u64) {
    let (old, new) = (TreeSize(old), TreeSize(new));
    for tile in tiles_for_growth(old, new).into_iter().chain(bundles_for_growth(old, new)) {
        if tile.is_full() {
            // They are superseded, so one that stays does no harm.
            let _ = std::fs::remove_dir_all(folder.join(format!("{tile}.p")));
        }
    }
}

impl Publisher {
    /// Writes tiles and bundles up to `size`.
    async fn write_tiles(&mut self, db: &Pool, size: u64) -> Result<(), StoreError> {
        while self.tiled < size {
            let old = self.tiled;
            let new = ((old / GROWTH_LEAVES_MAX + 1) * GROWTH_LEAVES_MAX).min(size);
            let growth = read_growth(db, &self.folder, &self.tenant, old, new).await?;
            let bodies = read_bodies(db, &self.tenant, growth.from, new).await?;
            let folder = self.folder.clone();
            blocking(move || write_growth(&folder, &growth, &bodies, old, new)).await?;
            self.tiled = new;
        }
        Ok(())
    }

    /// Signs the tree of `frontier`, which must be what its tiles say and extend what was signed.
    async fn sign(&mut self, frontier: &Frontier) -> Result<String, StoreError> {
        let (size, root) = (frontier.size(), frontier.root());
        let status = self.ask_signer().await?;
        if status.size > size.0 {
            return Err(StoreError::unavailable("another process signed a later tree"));
        }
        let old = TreeSize(status.size);
        let tiles = PublishedTiles(self.folder.clone());
        let (found, proof) = blocking(move || {
            let reader = TileHashReader::new(tiles, size);
            let missing = |error: tree::TreeError| StoreError::corrupt(error.to_string());
            let found = tree::root(&reader, size).map_err(missing)?;
            let proof = tree::consistency_proof(&reader, old, size).map_err(missing)?;
            Ok((found, proof))
        })
        .await?;
        if found != root {
            return Err(StoreError::Forked { what: "the published log", size: size.0 });
        }
        let note = self.signer.sign(ToSign { old: old.0, size, root, proof }).await?;
        match Checkpoint::open(note.as_bytes(), &status.keys) {
            Ok(signed) if signed.size == size && signed.root == root => Ok(note),
            Ok(_) => Err(StoreError::Signer("it signed another tree".to_owned())),
            Err(error) => Err(StoreError::Signer(format!("its signature: {error}"))),
        }
    }

    /// Asks what was signed last, and takes over what the signer says about its keys.
    async fn ask_signer(&mut self) -> Result<SignerStatus, StoreError> {
        let status = self.signer.status().await?;
        if *self.keys.read().unwrap_or_else(PoisonError::into_inner) != status.keys {
            self.keystore.keep_log_keys(&self.origin, &status.keys)?;
            *self.keys.write().unwrap_or_else(PoisonError::into_inner) = status.keys.clone();
        }
        self.rotation = Replacement::of(status.rotation.as_ref(), self.rotation.take());
        Ok(status)
    }

    /// Returns whether this process gets the log signed.
    pub(crate) fn leads(&self) -> bool {
        self.sequencer.as_ref().is_none_or(|sequencer| sequencer.durable().is_some())
    }

    /// Returns the keys that ever signed the log.
    pub(crate) fn log_keys(&self) -> LogKeys {
        Arc::clone(&self.keys)
    }

    /// Reads a checkpoint of this log. A key that another process took into use is asked for.
    async fn open_checkpoint(&mut self, note: &str) -> Result<Checkpoint, String> {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner).clone();
        match Checkpoint::open(note.as_bytes(), &keys) {
            Err(CheckpointError::Note(NoteError::NoKnownKey)) => {
                let status = self.ask_signer().await.map_err(|error| error.to_string())?;
                Checkpoint::open(note.as_bytes(), &status.keys).map_err(|error| error.to_string())
            }
            done => done.map_err(|error| error.to_string()),
        }
    }

    /// Publishes here what the process that orders the log has signed.
    async fn follow(&mut self, db: &Pool) -> Result<u64, StoreError> {
        let sql = "SELECT size, note FROM checkpoint WHERE tenant = $1 ORDER BY size DESC LIMIT 1";
        let Some(row) = db.fetch_optional(sql, &[Column::Text(&self.tenant)]).await? else {
            return Ok(self.published);
        };
        let (size, note): (i64, String) = (row.get(0)?, row.get(1)?);
        let size = unsigned(size, "checkpoint.size")?;
        if size <= self.published {
            return Ok(self.published);
        }
        let damaged = |reason: String| StoreError::corrupt(format!("checkpoint {size}: {reason}"));
        let point = self.open_checkpoint(&note).await.map_err(damaged)?;
        self.write_tiles(db, size).await?;
        let tiles = PublishedTiles(self.folder.clone());
        let root = blocking(move || {
            tree::root(&TileHashReader::new(tiles, TreeSize(size)), TreeSize(size))
                .map_err(|error| StoreError::corrupt(error.to_string()))
        });
        if point.size.0 != size || point.root != root.await? {
            return Err(StoreError::Forked { what: "a stored checkpoint", size });
        }
        self.put_checkpoint(size, note).await
    }

    /// Publishes a checkpoint; what it covers is there.
    async fn put_checkpoint(&mut self, size: u64, note: String) -> Result<u64, StoreError> {
        let (folder, old) = (self.folder.clone(), self.published);
        blocking(move || {
            let note = note.as_bytes();
            make_folder(&folder.join("checkpoints"))?;
            let kept = folder.join("checkpoints").join(size.to_string());
            write_staged(&kept, &folder.join(".checkpoint.new"), note, Access::Shared)?;
            write_atomic(&folder.join(CHECKPOINT), note, Access::Shared)?;
            drop_partials(&folder, old, size);
            Ok(())
        })
        .await?;
        self.published = size;
        Ok(size)
    }
}

impl Store {
    /// Publishes again and again until the store is closed, and records a heartbeat whenever this gateway
    /// has recorded nothing else for a while.
    pub async fn publisher(&self) {
        let config = &self.inner.config;
        let shared = self.inner.servers.is_some();
        let rounds = if shared { ORDERED_PER_PUBLISHED } else { 1 };
        let mut ticks = tokio::time::interval(config.publish_every / rounds);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut written, mut since, mut round) = (self.written(), Instant::now(), 0);
        loop {
            ticks.tick().await;
            if self.is_closed() {
                return;
            }
            round = (round + 1) % rounds;
            if shared && let Err(error) = self.heed_others(round == 0).await {
                tracing::error!(%error, "what other gateways did cannot be looked up");
            }
            if round != 0 {
                continue;
            }
            if let Err(error) = self.close_ended_days().await {
                tracing::error!(%error, "a day cannot be closed");
            }
            if let Err(error) = self.publish_now().await {
                tracing::error!(%error, "the log cannot be published");
            }
            // In a task of its own: nobody waits for it, and only one goes a step on.
            tokio::spawn({
                let store = self.clone();
                async move {
                    if let Err(error) = store.purge_daily().await {
                        tracing::error!(%error, "private sections that are due cannot be purged");
                    }
                }
            });
            // Of its own stream: records of other gateways do not say that this one lives.
            if self.written() != written {
                (written, since) = (self.written(), Instant::now());
            } else if since.elapsed() >= config.heartbeat_every {
                since = Instant::now();
                self.beat().await;
                written = self.written();
            }
        }
    }

    /// Closes days, if this process orders the log.
    async fn close_ended_days(&self) -> Result<(), StoreError> {
        let leads = self.inner.publishing.lock().await.leads();
        if leads { self.close_days().await.map(drop) } else { Ok(()) }
    }

    /// Publishes what is durable, if it is more than what was published; returns the published size.
    ///
    /// # Errors
    /// [`StoreError::Forked`] if the database does not extend what was signed: nothing is signed then.
    /// [`StoreError::Io`], [`StoreError::Database`], [`StoreError::Unavailable`].
    pub async fn publish_now(&self) -> Result<u64, StoreError> {
        // In a task of its own: a caller that goes away must not let the next publication begin while
        // this one still writes its files.
        let store = self.clone();
        let done = tokio::spawn(async move {
            let published = store.publish().await?;
            store.record_rotation().await?;
            Ok(published)
        });
        let done = done.await;
        if let Ok(Err(StoreError::Forked { .. } | StoreError::Behind { .. })) = &done {
            self.inner.forked.store(true, std::sync::atomic::Ordering::Relaxed);
        }
        done.unwrap_or_else(|_| Err(StoreError::unavailable("the publication broke off")))
    }

    async fn publish(&self) -> Result<u64, StoreError> {
        let mut publisher = self.inner.publishing.lock().await;
        let db = &self.inner.read;
        let frontier = match &mut publisher.sequencer {
            None => load_frontier(db, &publisher.tenant).await?,
            Some(sequencer) => {
                sequencer.run().await?;
                match sequencer.durable() {
                    Some(frontier) => frontier.clone(),
                    None => return publisher.follow(db).await,
                }
            }
        };
        let (size, there) = (frontier.size().0, publisher.published);
        if size < there {
            let what = "the published checkpoint";
            return Err(StoreError::Behind { what, there, here: size });
        }
        if size == there {
            return Ok(size);
        }
        publisher.write_tiles(db, size).await?;
        let note = publisher.sign(&frontier).await?;
        match &mut publisher.sequencer {
            Some(sequencer) => sequencer.store_checkpoint(size, &note).await?,
            None => self.store_checkpoint(size, note.clone()).await?,
        }
        publisher.put_checkpoint(size, note).await
    }

    /// Orders what several gateways have written, without publishing it yet.
    pub(crate) async fn order_now(&self) -> Result<(), StoreError> {
        match &mut self.inner.publishing.lock().await.sequencer {
            Some(sequencer) => sequencer.run().await,
            None => Ok(()),
        }
    }

    async fn store_checkpoint(&self, size: u64, note: String) -> Result<(), StoreError> {
        let (reply, answer) = oneshot::channel();
        self.send(Message::Checkpoint { size, note, reply }).await?;
        answer.await.unwrap_or_else(|_| Err(StoreError::unavailable("the store is closed")))
    }

    /// Returns the verifier key of the log, as auditors are given it: the newest one.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] if there is none.
    pub fn vkey(&self) -> Result<String, StoreError> {
        let keys = self.log_keys();
        let key = keys.last().ok_or_else(|| StoreError::invalid("the log has no key"))?;
        Ok(key.to_string())
    }

    /// Returns all verifier keys that the log ever had, oldest first.
    #[must_use]
    pub fn log_keys(&self) -> Vec<VerifierKey> {
        self.inner.log_keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Reads the frontier alone: leaves may be added at the same time.
pub(crate) async fn load_frontier(db: &Pool, tenant: &str) -> Result<Frontier, StoreError> {
    let sql = "SELECT edge FROM frontier WHERE tenant = $1";
    let row = db.fetch_optional(sql, &[Column::Text(tenant)]).await?;
    let edge: Option<Vec<u8>> = row.map(|row| row.get(0)).transpose()?;
    edge.map_or_else(|| Ok(Frontier::new()), |edge| Frontier::from_bytes(&edge))
        .map_err(|error| StoreError::corrupt(format!("frontier: {error}")))
}
