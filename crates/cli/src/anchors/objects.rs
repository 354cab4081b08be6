//! Copies the log to an object store: checkpoints with their tiles and entry bundles, timestamps, and what
//! witnesses cosigned.
//!
//! Everything but `checkpoint`, which names the newest, is written once and never again: what is there
//! with other content is an error. That nobody can delete or replace it, the operator included, is the
//! work of the bucket's Object Lock. The copy is a log like the published one; its `checkpoint` comes last,
//! so that an interrupted copy is taken up after it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail, ensure};
use countersign_console::BoxFuture;
use countersign_evidence::folder::LogFolder;
use countersign_evidence::{cut, shown, timestamp};
use countersign_ledger::tile::{TilePath, bundles_for_growth, tiles_for_growth, width_at};
use countersign_ledger::verify::{
    CHECKPOINT_PATH, CHECKPOINTS_PREFIX, COSIGNED_PREFIX, LogSource as _,
};
use countersign_ledger::{Checkpoint, Note, TreeSize};
use countersign_store::Store;
use futures_util::TryStreamExt as _;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, Checksum, S3ConditionalPut};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{
    ClientOptions, Error, ObjectStore, ObjectStoreExt as _, PutMode, PutPayload, RetryConfig,
};

use super::{Anchor, extends};
use crate::config;

/// How long one request may take.
const TIMEOUT: Duration = Duration::from_secs(30);
/// How often a request is made again at once.
const RETRIES: usize = 2;
/// Most leaves that are copied before the next look at what is to be copied: a whole number of level 1 tiles.
const STEP: u64 = 65_536;
/// Characters of a failure that are shown.
const SHOWN: usize = 300;
/// Where credentials may come from: keys, or a token or an address that the environment names.
const CREDENTIALS: [AmazonS3ConfigKey; 4] = [
    AmazonS3ConfigKey::AccessKeyId,
    AmazonS3ConfigKey::WebIdentityTokenFile,
    AmazonS3ConfigKey::ContainerCredentialsRelativeUri,
    AmazonS3ConfigKey::ContainerCredentialsFullUri,
];
/// Largest object of a copy that is read, in bytes: a bundle of 256 entries, each with its length before it.
const OBJECT_BYTES_MAX: u64 = 256 * (2 + 65_535);

/// A copy of the log.
pub(super) struct Copy {
    store: Store,
    log: PathBuf,
    objects: Box<dyn ObjectStore>,
    /// The size of the last cosigned checkpoint that was copied.
    cosigned: TreeSize,
}

/// What a copy has.
struct There {
    /// Its checkpoint.
    latest: Option<Checkpoint>,
    /// The leaves whose full tiles are there.
    tiled: u64,
    /// The sizes with a timestamp.
    stamped: BTreeSet<String>,
}

impl Copy {
    pub(super) fn new(
        store: &Store,
        config: &config::Objects,
        log: PathBuf,
    ) -> anyhow::Result<Self> {
        let objects =
            open(config).with_context(|| format!("anchors.object_store, {}", config.url))?;
        Ok(Self { store: store.clone(), log, objects, cosigned: TreeSize(0) })
    }

    async fn copy(&mut self, point: &Checkpoint, note: &Note) -> anyhow::Result<u64> {
        // Another gateway may have written to the copy.
        let mut there = self.look().await?;
        if let Some(latest) = &there.latest {
            extends(&self.store, "the copy", latest, point).await?;
        }
        let log = tokio::task::block_in_place(|| LogFolder::open(&self.log))?;
        while there.tiled < point.size.0 {
            let next = ((there.tiled / STEP + 1) * STEP).min(point.size.0);
            self.grow(&log, there.tiled, next, point.size).await?;
            there.tiled = next;
        }
        if there.latest.as_ref() != Some(point) {
            let note = note.to_bytes();
            self.put_once(&format!("{CHECKPOINTS_PREFIX}{}", point.size), note.clone()).await?;
            self.put(CHECKPOINT_PATH, note, PutMode::Overwrite).await?;
        }
        self.copy_timestamps(&log, point.size, &there.stamped).await?;
        self.copy_cosigned(&log, point.size).await?;
        Ok(point.size.0)
    }

    /// Looks at what the copy has.
    async fn look(&self) -> anyhow::Result<There> {
        let latest = match self.get(CHECKPOINT_PATH).await? {
            Some(note) => Some(
                Checkpoint::open(&note, &self.store.log_keys())
                    .context("`checkpoint` of the copy is no checkpoint of this log")?,
            ),
            None => None,
        };
        let folder = Path::parse(timestamp::FOLDER.trim_end_matches('/'))?;
        let listed = self.objects.list(Some(&folder));
        let stamped = listed.map_ok(|object| object.location.to_string()).try_collect().await;
        let stamped = stamped.map_err(|error| explained(timestamp::FOLDER, &error))?;
        Ok(There { tiled: latest.as_ref().map_or(0, |point| point.size.0), latest, stamped })
    }

    /// Copies the tiles and bundles of a growth, as far as a log of size `end` has them.
    async fn grow(&self, log: &LogFolder, old: u64, new: u64, end: TreeSize) -> anyhow::Result<()> {
        for path in lasting(TreeSize(old), TreeSize(new), end) {
            self.copy_file(log, &path.to_string()).await?;
        }
        Ok(())
    }

    /// Copies the timestamps that are new, each with the checkpoint that it stamps.
    async fn copy_timestamps(
        &self,
        log: &LogFolder,
        end: TreeSize,
        stamped: &BTreeSet<String>,
    ) -> anyhow::Result<()> {
        for path in log.list(timestamp::FOLDER)?.into_iter().filter(|path| !stamped.contains(path))
        {
            // One beyond `end` waits for the copy to get there.
            let Some(size) = timestamp::stamped_size(&path).filter(|size| *size <= end) else {
                continue;
            };
            self.copy_file(log, &format!("{CHECKPOINTS_PREFIX}{size}")).await?;
            self.copy_file(log, &path).await?;
        }
        Ok(())
    }

    /// Copies the newest checkpoint that witnesses cosigned, unless the copy has one of that size: another
    /// gateway, or an earlier round, may have copied it with fewer cosignatures.
    async fn copy_cosigned(&mut self, log: &LogFolder, end: TreeSize) -> anyhow::Result<()> {
        let newest = log.cosigned_sizes().iter().rfind(|size| **size <= end).copied();
        let Some(size) = newest.filter(|size| *size > self.cosigned) else { return Ok(()) };
        let path = format!("{COSIGNED_PREFIX}{size}");
        let Some(note) = tokio::task::block_in_place(|| log.cosigned(size))? else { return Ok(()) };
        if self.get(&path).await?.is_none() {
            self.put_once(&path, note).await?;
        }
        self.cosigned = size;
        Ok(())
    }

    async fn copy_file(&self, log: &LogFolder, path: &str) -> anyhow::Result<()> {
        let bytes = tokio::task::block_in_place(|| log.read(path))?;
        let bytes = bytes.with_context(|| format!("`{path}` of the log is missing"))?;
        self.put_once(path, bytes).await
    }

    /// Writes a file that is not there yet, or is there with the same content.
    async fn put_once(&self, path: &str, bytes: Vec<u8>) -> anyhow::Result<()> {
        match self.try_put(path, bytes.clone(), PutMode::Create).await {
            Err(Error::AlreadyExists { .. }) => {
                let same = self.get(path).await?.is_some_and(|there| there == bytes);
                ensure!(same, "`{path}` of the copy has other content than the log");
                Ok(())
            }
            put => put.map_err(|error| explained(path, &error)),
        }
    }

    async fn put(&self, path: &str, bytes: Vec<u8>, mode: PutMode) -> anyhow::Result<()> {
        let put = self.try_put(path, bytes, mode).await;
        put.map_err(|error| explained(path, &error))
    }

    async fn try_put(&self, path: &str, bytes: Vec<u8>, mode: PutMode) -> Result<(), Error> {
        let (path, bytes) = (Path::parse(path)?, PutPayload::from(bytes));
        self.objects.put_opts(&path, bytes, mode.into()).await.map(drop)
    }

    async fn get(&self, path: &str) -> anyhow::Result<Option<Vec<u8>>> {
        get(&*self.objects, path).await
    }
}

/// A copy of the log, for reading.
pub(crate) struct Archive(Box<dyn ObjectStore>);

impl Archive {
    /// Opens the copy that a configuration names.
    pub(crate) fn open(config: &config::Objects) -> anyhow::Result<Self> {
        Ok(Self(open(config).with_context(|| format!("anchors.object_store, {}", config.url))?))
    }

    /// Reads a file of it.
    pub(crate) async fn get(&self, path: &str) -> anyhow::Result<Option<Vec<u8>>> {
        get(&*self.0, path).await
    }
}

async fn get(objects: &dyn ObjectStore, path: &str) -> anyhow::Result<Option<Vec<u8>>> {
    match objects.get(&Path::parse(path)?).await {
        Ok(found) => {
            let size = found.meta.size;
            ensure!(size <= OBJECT_BYTES_MAX, "`{path}` of the copy has {size} bytes");
            let bytes = found.bytes().await.map_err(|error| explained(path, &error))?;
            Ok(Some(bytes.to_vec()))
        }
        Err(Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(explained(path, &error)),
    }
}

impl Anchor for Copy {
    fn name(&self) -> &'static str {
        "object_store"
    }

    fn anchor<'a>(
        &'a mut self,
        checkpoint: &'a Checkpoint,
        note: &'a Note,
    ) -> BoxFuture<'a, anyhow::Result<u64>> {
        Box::pin(self.copy(checkpoint, note))
    }
}

/// Returns the files of a growth that a log of size `end` has: not those that grow on until then.
fn lasting(old: TreeSize, new: TreeSize, end: TreeSize) -> impl Iterator<Item = TilePath> {
    let paths = bundles_for_growth(old, new).into_iter().chain(tiles_for_growth(old, new));
    paths.filter(move |path| width_at(path.kind(), path.index(), end) == Some(path.width()))
}

/// Says in a line what the store said, which may be pages of XML.
fn explained(path: &str, error: &Error) -> anyhow::Error {
    let said: Vec<_> = error.to_string().split_whitespace().map(shown).collect();
    anyhow!("`{path}` of the copy: {}", cut(&said.join(" "), SHOWN))
}

/// Opens the store that a URL names.
fn open(config: &config::Objects) -> anyhow::Result<Box<dyn ObjectStore>> {
    if let Some(folder) = config.url.strip_prefix("file://") {
        ensure!(folder.starts_with('/'), "the folder needs its full path: file:///mnt/log");
        std::fs::create_dir_all(folder).with_context(|| folder.to_owned())?;
        return Ok(Box::new(LocalFileSystem::new_with_prefix(folder)?.with_fsync(true)));
    }
    let Some(place) = config.url.strip_prefix("s3://") else {
        bail!("it begins neither with s3:// nor with file://");
    };
    let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
    ensure!(!bucket.is_empty(), "it names no bucket");
    let endpoint = config.endpoint.as_deref();
    let plain = endpoint.is_some_and(|endpoint| endpoint.starts_with("http://"));
    let client = ClientOptions::new()
        .with_timeout(TIMEOUT)
        .with_connect_timeout(TIMEOUT)
        .with_allow_http(plain);
    let retry =
        RetryConfig { max_retries: RETRIES, retry_timeout: TIMEOUT, ..RetryConfig::default() };
    // Credentials and region are in the environment, under the names that AWS gives them.
    let mut builder = AmazonS3Builder::from_env()
        .with_bucket_name(bucket)
        .with_client_options(client)
        .with_retry(retry)
        // A bucket with Object Lock takes nothing without a checksum.
        .with_checksum_algorithm(Checksum::SHA256);
    if let Some(endpoint) = endpoint {
        builder = builder.with_endpoint(endpoint);
    }
    // Without conditional writes nobody would see that something is overwritten.
    let conditional = builder.get_config_value(&AmazonS3ConfigKey::ConditionalPut);
    ensure!(
        conditional.is_none_or(|mode| mode != S3ConditionalPut::Disabled.to_string()),
        "AWS_CONDITIONAL_PUT is `disabled`, and the copy needs writes that replace nothing"
    );
    // Without any of them the client would look for a service of the machine, which may be somebody else's.
    ensure!(
        CREDENTIALS.iter().any(|key| builder.get_config_value(key).is_some()),
        "there are no credentials in the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY)"
    );
    Ok(Box::new(PrefixStore::new(builder.build()?, Path::parse(prefix.trim_end_matches('/'))?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_that_grows_in_steps_has_what_a_log_of_its_size_has() {
        for (sizes, end) in [
            (&[65_536, 70_000][..], 70_000),
            (&[65_000, 65_536, 66_000], 66_000),
            (&[65_536, 131_072, 140_000], 140_000),
            (&[100, 256, 300], 300),
        ] {
            let mut copied = BTreeSet::new();
            let mut old = 0;
            for new in sizes {
                let paths = lasting(TreeSize(old), TreeSize(*new), TreeSize(end));
                copied.extend(paths.map(|path| path.to_string()));
                old = *new;
            }
            let end = TreeSize(end);
            let whole: BTreeSet<_> =
                lasting(TreeSize(0), end, end).map(|path| path.to_string()).collect();
            assert_eq!(copied, whole, "{sizes:?}");
            assert!(whole.len() > 4);
        }
    }
}
