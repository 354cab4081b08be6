//! The store as the gateway, the console and the command line see it.

use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use countersign_model::{Draft, Kind, OutcomeStatus, RecordId};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use crate::StoreError;
use crate::batch::{Claim, Done, Head, Job, Settlement, Work};
use crate::config::{Database, StoreConfig};
use crate::db::postgres::Servers;
use crate::db::{Column, Conn, Pool, sqlite};
use crate::effect::Effect;
use crate::files::{AtPath as _, make_folder, open_lock};
use crate::head::{create_coord, load_coord};
use crate::intent::{
    Appended, Committed, IdempotencyClaim, Intent, Outcome, Receipt, StoredResult,
};
use crate::keystore::{Keystore, Random, period_of};
use crate::limits::{IDEMPOTENCY_KEY_BYTES_MAX, RESULT_KEPT_MS};
use crate::migrate::must_be_here;
use crate::prepare::{Prepared, RESULT, Sealer, text_parts};
use crate::registry::Registry;
use crate::replay;
use crate::retention::Purging;
use crate::settled::Settled;
use crate::signer::SignerFolder;
use crate::subject::{Subjects, TENANT_SUBJECT, ready_keys};
use crate::writer::{Context, Message, Place, Writer};
use crate::{publish, start, stream};

/// How often a call in flight is looked up that another gateway may forward.
const OTHERS_EVERY: Duration = Duration::from_millis(50);

/// The lock file in the data folder.
const LOCK: &str = "lock";

/// The ledger of one tenant: records, registry and bundles.
///
/// Clones share one writer. The data folder is locked until every clone is gone, or until
/// [`Store::shutdown`].
#[derive(Clone)]
pub struct Store {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) config: StoreConfig,
    pub(crate) folder: PathBuf,
    pub(crate) keys: Arc<Keystore>,
    pub(crate) read: Pool,
    /// The database servers, if several gateways share the log.
    pub(crate) servers: Option<Servers>,
    /// The version of the registry that is in memory.
    pub(crate) registry_version: AtomicI64,
    /// Whether the database and what was signed are two histories: then no call is let through.
    pub(crate) forked: AtomicBool,
    /// When the next day is to be closed, as far as this process knows.
    pub(crate) next_close_ms: AtomicU64,
    /// When private sections are purged by age the next time.
    pub(crate) next_purge_ms: AtomicI64,
    /// Held by whoever purges by age.
    pub(crate) purging: tokio::sync::Mutex<Option<Purging>>,
    /// How many records this process has written.
    pub(crate) written: AtomicU64,
    pub(crate) registry: Registry,
    pub(crate) publishing: tokio::sync::Mutex<publish::Publisher>,
    /// The keys that ever signed the log, as the publisher knows them.
    pub(crate) log_keys: publish::LogKeys,
    pub(crate) subjects: Arc<Subjects>,
    /// Held by whoever erases a person, or sets or lifts a hold.
    pub(crate) erasing: tokio::sync::Mutex<()>,
    queue: mpsc::Sender<Message>,
    settled: Arc<Settled>,
    /// Ends when the writer has.
    writer: Mutex<Option<oneshot::Receiver<()>>>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("folder", &self.inner.folder).finish_non_exhaustive()
    }
}

pub(crate) fn keys_folder(folder: &Path, config: &StoreConfig) -> PathBuf {
    config.keys.clone().unwrap_or_else(|| folder.join("keys"))
}

/// Makes a keystore, with a signing key unless a process of its own signs.
fn create_keys(folder: &Path, config: &StoreConfig) -> Result<Keystore, StoreError> {
    // Before anything is made: a signing key beside another gateway's keystore would be a second one.
    Keystore::must_be_new(folder)?;
    if config.signer.is_none() {
        Keystore::make_log_key(folder)?;
        SignerFolder::of_keystore(folder, &config.origin).signing_key()?;
    }
    Keystore::create(folder)
}

/// A database that is open for a store.
struct Opened {
    place: Place,
    /// The writing connection, if no stream has to be taken over first.
    conn: Option<Conn>,
    read: Pool,
    /// The gateway's number, if several share the log.
    number: Option<u32>,
}

impl Opened {
    async fn open(folder: &Path, config: &StoreConfig) -> Result<Self, StoreError> {
        let tenant = config.tenant.as_str();
        if let Database::Postgres(urls) = &config.database {
            let servers = Servers::parse(urls, tenant)?;
            let read = servers.readers().await?;
            servers.upgrade(&read).await?;
            servers.check_schema(&read).await?;
            let number = Some(stream::register(&servers, tenant, &config.replica).await?);
            let place = Place::Servers { servers, instance: (config.ids)().to_string() };
            return Ok(Self { place, conn: None, read, number });
        }
        let path = folder.join(sqlite::FILE);
        if !path.exists() {
            return Err(StoreError::Missing(path));
        }
        must_be_here(folder)?;
        let mut conn = sqlite::open_writer(&path, config.commit_deadline, false)?;
        sqlite::truncate_wal(&conn)?;
        sqlite::migrate(&mut conn)?;
        let mut conn = Conn::sqlite(conn);
        if load_coord(&mut conn, tenant).await?.is_none() {
            return Err(StoreError::invalid(format!("the store is not of tenant `{tenant}`")));
        }
        let read = Pool::Sqlite(sqlite::open_readers(&path).await?);
        Ok(Self { place: Place::File(path), conn: Some(conn), read, number: None })
    }
}

/// Begins an epoch, and records the outcome `unknown` of each call that this gateway left open.
async fn begin(conn: Option<Conn>, context: &Context) -> Result<(Conn, Head), StoreError> {
    match (&context.place, conn) {
        (Place::File(_), Some(mut conn)) => {
            let head = start::begin(&mut conn, context).await?;
            Ok((conn, head))
        }
        (Place::Servers { servers, instance }, _) => {
            let (mut conn, head) = stream::begin(context, servers, instance, true).await?;
            let calls = stream::open_calls(&mut conn, &context.tenant, &context.replica).await?;
            let head = start::sweep(&mut conn, context, head, &calls).await?;
            Ok((conn, head))
        }
        (Place::File(path), None) => Err(StoreError::Missing(path.clone())),
    }
}

impl Store {
    /// Makes a data folder with an empty database, and a keystore with fresh keys. In PostgreSQL it makes
    /// the tables, or finds them; a keystore that is there is another gateway's too.
    ///
    /// # Errors
    /// [`StoreError::Exists`] if either is there already; [`StoreError::Io`], [`StoreError::Database`].
    pub async fn create(folder: &Path, config: &StoreConfig) -> Result<(), StoreError> {
        make_folder(folder)?;
        let path = folder.join(sqlite::FILE);
        if path.exists() {
            return Err(StoreError::Exists(path));
        }
        let (keys, tenant) = (keys_folder(folder, config), config.tenant.as_str());
        if let Database::Postgres(urls) = &config.database {
            // The second gateway finds the keys of the first.
            if let Err(error) = create_keys(&keys, config)
                && !matches!(error, StoreError::Exists(_))
            {
                return Err(error);
            }
            Keystore::open(&keys)?;
            return Servers::parse(urls, tenant)?.migrate().await;
        }
        must_be_here(folder)?;
        let keys = create_keys(&keys, config)?;
        keys.make_shard(0)?;
        let mut conn = sqlite::open_writer(&path, config.commit_deadline, true)?;
        sqlite::migrate(&mut conn)?;
        let mut conn = Conn::sqlite(conn);
        create_coord(&mut conn, tenant).await?;
        conn.close().await?;
        crate::files::sync_folder(folder)
    }

    /// Opens a store for writing and starts its writer.
    ///
    /// Begins a new epoch, records a gap if the last stop was not clean, and the outcome `unknown` of each
    /// allowed call without one. Carries on erasures that were requested and are not done; one that fails
    /// again is logged, and its keys stay out of use.
    ///
    /// # Errors
    /// [`StoreError::Locked`] if another process has it open, [`StoreError::Behind`] and
    /// [`StoreError::Forked`] if it does not continue what was signed or published,
    /// [`StoreError::Elsewhere`] if the ledger moved to PostgreSQL, [`StoreError::Missing`], [`StoreError::Corrupt`], [`StoreError::Setting`].
    pub async fn open(folder: &Path, config: StoreConfig) -> Result<Self, StoreError> {
        Self::open_locked(lock(folder)?, folder, config).await
    }

    /// Does what [`Store::open`] does, under the folder's lock, which the store keeps.
    pub(crate) async fn open_locked(
        lock: File,
        folder: &Path,
        config: StoreConfig,
    ) -> Result<Self, StoreError> {
        let keys = Arc::new(Keystore::open(&keys_folder(folder, &config))?);
        let Opened { place, conn, read, number } = Opened::open(folder, &config).await?;
        let tenant = config.tenant.as_str();
        let sequencer = place.sequencer(tenant);
        let publisher = publish::Publisher::open(&read, folder, &config, &keys, sequencer).await?;
        let log_keys = publisher.log_keys();
        let subjects = Arc::new(Subjects::load(&read, tenant, &keys, number).await?);
        subjects.get(TENANT_SUBJECT);
        let registry = Registry::load(&read, tenant).await?;
        let settled = Arc::new(Settled::default());
        let servers = place.servers().cloned();
        let context = Context {
            place,
            tenant: tenant.to_owned(),
            replica: config.replica.clone(),
            clock: Arc::clone(&config.clock),
            ids: Arc::clone(&config.ids),
            busy: config.commit_deadline,
            settled: Arc::clone(&settled),
            subjects: Arc::clone(&subjects),
            lock,
        };
        let (conn, head) = begin(conn, &context).await?;
        let (queue, receiver) = mpsc::channel(config.queue);
        let writer = Writer::new(context, conn, head).start(receiver)?;
        let inner = Inner {
            config,
            folder: folder.to_owned(),
            keys,
            read,
            servers,
            registry,
            registry_version: AtomicI64::new(0),
            forked: AtomicBool::new(false),
            next_close_ms: AtomicU64::new(0),
            next_purge_ms: AtomicI64::new(0),
            purging: tokio::sync::Mutex::default(),
            written: AtomicU64::new(0),
            publishing: tokio::sync::Mutex::new(publisher),
            log_keys,
            subjects,
            erasing: tokio::sync::Mutex::default(),
            queue,
            settled,
            writer: Mutex::new(Some(writer)),
        };
        let store = Self { inner: Arc::new(inner) };
        if let Err(error) = store.carry_on_erasures().await {
            tracing::error!(%error, "an erasure that was requested cannot be carried on");
        }
        Ok(store)
    }

    /// Makes an allow-decision durable, with the claim of its idempotency key.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if the record is not known to be durable within the deadline: the call
    /// must not be forwarded, and if the record is durable after all, its outcome `not_forwarded` follows.
    /// [`StoreError::Invalid`], [`StoreError::TooLarge`].
    pub async fn commit_intent(&self, intent: Intent) -> Result<Committed, StoreError> {
        let Intent { draft, denial, idempotency } = intent;
        let allows = draft.public.get("decision").is_some_and(|verdict| verdict == "allow");
        if draft.kind != Kind::Decision || !allows {
            return Err(StoreError::invalid("an intent is a decision that allows"));
        }
        if self.inner.forked.load(Ordering::Relaxed) {
            return Err(StoreError::unavailable("the database is not what was signed"));
        }
        let deadline = self.deadline();
        let mut claim = None;
        if let Some(IdempotencyClaim { agent, key, digest }) = idempotency {
            if key.is_empty() || key.len() > IDEMPOTENCY_KEY_BYTES_MAX {
                let reason =
                    format!("an idempotency key has 1 to {IDEMPOTENCY_KEY_BYTES_MAX} bytes");
                return Err(StoreError::invalid(reason));
            }
            let agent_bytes = agent.0.as_bytes();
            let key = self.inner.keys.idempotency_hash(&[b"key", agent_bytes, key.as_bytes()])?;
            let digest = self.inner.keys.idempotency_hash(&[b"digest", agent_bytes, &digest])?;
            claim = Some(Claim { agent, key, digest, denial });
        }
        let prepared = self.prepare_keyed(draft, claim.as_ref().map(|claim| &claim.key)).await?;
        match self.submit(prepared, Work::Intent { claim }, deadline).await? {
            Done::Recorded(place) => Ok(Committed::Recorded(Receipt::new(place))),
            Done::InFlight { first } => Ok(Committed::InFlight { evaluation_id: first }),
            Done::Refused { code, first, place } => {
                Ok(Committed::Refused { code, first, receipt: place })
            }
            Done::Replayed { first, status } => {
                self.stored_result(first, status).await.map(Committed::Replayed)
            }
        }
    }

    /// Makes the outcome of a forwarded call durable.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] if the call is not open; otherwise as [`Store::commit_intent`].
    pub async fn commit_outcome(&self, outcome: Outcome) -> Result<Appended, StoreError> {
        let (call, status) = (outcome.evaluation_id, outcome.status);
        let placed = self.settle(outcome, "open").await;
        if placed.is_err() {
            // Else the call would stay open, and its key in flight, until this gateway starts again.
            self.inner.settled.abandon(call, status);
        }
        placed
    }

    /// Settles a call whose outcome is unknown, on an operator's word: a second outcome record
    /// supersedes the first.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] if the call's outcome is not unknown, or `status` is `Unknown`.
    pub async fn reconcile(
        &self,
        evaluation_id: RecordId,
        status: OutcomeStatus,
        actor: &str,
        reason: &str,
    ) -> Result<Appended, StoreError> {
        if status == OutcomeStatus::Unknown {
            return Err(StoreError::invalid("a reconciled outcome is known"));
        }
        let draft = Draft::new(self.new_id(), Kind::Outcome)
            .with("reconciled", true)
            .about(actor)
            .sealed("reason", reason);
        let outcome = Outcome { evaluation_id, draft, status, result: None };
        self.settle(outcome, "unknown").await
    }

    async fn settle(&self, outcome: Outcome, from: &'static str) -> Result<Appended, StoreError> {
        let Outcome { evaluation_id: call, mut draft, status, result } = outcome;
        if draft.kind != Kind::Outcome {
            return Err(StoreError::invalid("an outcome has kind `outcome`"));
        }
        for (name, value) in [("parent", call.to_string()), ("outcome", status.as_str().to_owned())]
        {
            let field = draft.public.entry(name).or_insert_with(|| value.clone().into());
            if *field != value.as_str() {
                return Err(StoreError::invalid(format!("field `{name}` is not `{value}`")));
            }
        }
        let deadline = self.deadline();
        // Kept to the end: meanwhile the key under which the result is sealed is not destroyed.
        let (mut sealer, mut replay) = (None, None);
        if let Some(result) = result {
            let sealer = sealer.insert(self.sealer(draft.principal.as_deref()).await?);
            let mut random = Random::new();
            let parts = text_parts(&result, &mut random)?;
            let row = sealer.seal(call, RESULT, parts, &mut random)?;
            replay = Some((self.now_ms() + RESULT_KEPT_MS, row));
        }
        let prepared = self.prepare(draft).await?;
        let settlement = Settlement { call, status, from, replay };
        let placed = self.place(prepared, Work::Outcome(settlement), deadline).await;
        drop(sealer);
        placed
    }

    /// Makes a record durable that permits nothing: a denial, a rejected credential, a detection.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] for an allow-decision or an outcome, which have their own ways in;
    /// otherwise as [`Store::commit_intent`].
    pub async fn append(&self, draft: Draft) -> Result<Appended, StoreError> {
        let allows = draft.public.get("decision").is_some_and(|verdict| verdict == "allow");
        if allows || draft.kind == Kind::Outcome {
            return Err(StoreError::invalid("an allowed call is an intent and has an outcome"));
        }
        self.append_with(draft, Vec::new()).await
    }

    pub(crate) async fn append_with(
        &self,
        draft: Draft,
        effects: Vec<Effect>,
    ) -> Result<Appended, StoreError> {
        let deadline = self.deadline();
        let prepared = self.prepare(draft).await?;
        self.place(prepared, Work::Record(effects), deadline).await
    }

    /// Waits until a call in flight has its outcome, and says whether it has: then the intent can be
    /// committed again. A call that was not forwarded has an outcome too, and its key is free again.
    pub async fn wait_outcome(&self, evaluation_id: RecordId, within: Duration) -> bool {
        let deadline = Instant::now() + within;
        let watched = self.inner.settled.watch(evaluation_id);
        let notified = watched.notified();
        tokio::pin!(notified);
        notified.as_mut().enable();
        let (db, tenant) = (&self.inner.read, self.inner.config.tenant.as_str());
        // Looked up after enabling: an outcome in between is not missed.
        let settled = match replay::is_open(db, tenant, evaluation_id).await {
            Ok(false) => true,
            Ok(true) if self.inner.servers.is_some() => {
                self.wait_for_other(evaluation_id, deadline, notified).await
            }
            Ok(true) => timeout_at(deadline, notified).await.is_ok(),
            Err(error) => {
                tracing::warn!(%error, "a call in flight cannot be looked up");
                false
            }
        };
        self.inner.settled.leave(evaluation_id, &watched);
        settled
    }

    /// Waits for an outcome that another gateway may record: nobody tells of that one.
    async fn wait_for_other(
        &self,
        call: RecordId,
        deadline: Instant,
        mut notified: std::pin::Pin<&mut tokio::sync::futures::Notified<'_>>,
    ) -> bool {
        let (db, tenant) = (&self.inner.read, self.inner.config.tenant.as_str());
        while Instant::now() < deadline {
            let next = deadline.min(Instant::now() + OTHERS_EVERY);
            if timeout_at(next, notified.as_mut()).await.is_ok() {
                return true;
            }
            match replay::is_open(db, tenant, call).await {
                Ok(false) => return true,
                Ok(true) => {}
                Err(error) => tracing::warn!(%error, "a call in flight cannot be looked up"),
            }
        }
        false
    }

    /// Takes over what other gateways changed, and closes the streams of those that are gone.
    pub(crate) async fn heed_others(&self, publishes: bool) -> Result<(), StoreError> {
        let Inner { servers, read, registry, registry_version, config, .. } = &*self.inner;
        let Some(servers) = servers else { return Ok(()) };
        servers.redirect(read)?;
        if !publishes {
            self.order_now().await?;
        }
        let tenant = config.tenant.as_str();
        let version = self.news().await?;
        if version != registry_version.load(Ordering::Relaxed) {
            registry.reload(read, tenant).await?;
            self.heed_erasures().await?;
            registry_version.store(version, Ordering::Relaxed);
        }
        if publishes {
            for lost in stream::lost(read, tenant, &config.replica).await? {
                let (reply, answer) = oneshot::channel();
                self.send(Message::Close(lost, reply)).await?;
                answer.await.unwrap_or_else(|_| Err(StoreError::unavailable("it stopped")))?;
            }
        }
        Ok(())
    }

    /// Returns a number that grows with everything that gateways tell each other.
    pub(crate) async fn news(&self) -> Result<i64, StoreError> {
        let Inner { servers, read, config, .. } = &*self.inner;
        if servers.is_none() {
            return Ok(0);
        }
        let sql = "SELECT version FROM registry_version WHERE tenant = $1";
        let row = read.fetch_one(sql, &[Column::Text(config.tenant.as_str())]).await?;
        Ok(row.get(0)?)
    }

    async fn stored_result(
        &self,
        call: RecordId,
        status: OutcomeStatus,
    ) -> Result<StoredResult, StoreError> {
        let Inner { config, read, subjects, keys, .. } = &*self.inner;
        let tenant = config.tenant.as_str();
        let row = replay::result(read, tenant, call, self.now_ms()).await?;
        // The result of a person who was erased in between is gone.
        let kept = row.and_then(|row| subjects.slot_of(row.subject()).map(|slot| (row, slot)));
        let result = match kept.map(|(row, slot)| replay::open(&row, keys, tenant, call, slot)) {
            Some(Err(StoreError::NoKey(_))) | None => None,
            Some(opened) => Some(opened?),
        };
        Ok(StoredResult { evaluation_id: call, status, result })
    }

    /// Publishes what is durable, marks a clean stop and closes the database.
    ///
    /// # Errors
    /// The first thing that failed; the writer is stopped nevertheless.
    pub async fn shutdown(&self) -> Result<(), StoreError> {
        let published = self.publish_now().await.map(drop);
        if let Some(sequencer) = &mut self.inner.publishing.lock().await.sequencer {
            sequencer.stop().await;
        }
        self.inner.read.close().await;
        let (reply, answer) = oneshot::channel();
        let stopped = match self.send(Message::Stop(reply)).await {
            Ok(()) => answer.await.unwrap_or_else(|_| Err(StoreError::unavailable("it stopped"))),
            Err(error) => Err(error),
        };
        let writer = self.inner.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(ended) = writer {
            let _ = ended.await;
        }
        published.and(stopped)
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.inner.queue.is_closed()
    }

    pub(crate) async fn send(&self, message: Message) -> Result<(), StoreError> {
        let sent = self.inner.queue.send(message).await;
        sent.map_err(|_| StoreError::unavailable("the store is closed"))
    }

    /// Returns the tenant's pseudonym for a person, as leaves show it.
    ///
    /// # Errors
    /// [`StoreError::NoKey`].
    pub fn pseudonym(&self, person: &str) -> Result<String, StoreError> {
        self.inner.keys.pseudonym(person)
    }

    /// Returns the data folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.inner.folder
    }

    /// Returns the settings.
    #[must_use]
    pub fn config(&self) -> &StoreConfig {
        &self.inner.config
    }

    pub(crate) fn now_ms(&self) -> i64 {
        self.inner.config.clock.now_ms()
    }

    pub(crate) fn new_id(&self) -> RecordId {
        RecordId((self.inner.config.ids)())
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.inner.config.commit_deadline
    }

    async fn sealer(&self, person: Option<&str>) -> Result<Sealer<'_>, StoreError> {
        let Inner { config, keys, subjects, .. } = &*self.inner;
        let pseudonym = match person {
            Some(person) => keys.pseudonym(person)?,
            None => TENANT_SUBJECT.to_owned(),
        };
        let subject = subjects.get(&pseudonym);
        let period = period_of(self.now_ms());
        ready_keys(keys, subject.slot, subjects.shard_ahead(), &period).await?;
        let keys = (keys.subject(subject.slot)?, keys.period(&period)?);
        Ok(Sealer { tenant: config.tenant.as_str(), subject, keys, period })
    }

    /// Seals a draft in the caller's task. The person concerned is disclosed as field `principal`.
    async fn prepare(&self, draft: Draft) -> Result<Prepared, StoreError> {
        self.prepare_keyed(draft, None).await
    }

    async fn prepare_keyed(
        &self,
        mut draft: Draft,
        idem: Option<&[u8; 32]>,
    ) -> Result<Prepared, StoreError> {
        if draft.private.is_empty() && draft.principal.is_none() {
            return Prepared::public_keyed(&draft, self.inner.config.tenant.as_str(), idem);
        }
        let sealer = self.sealer(draft.principal.as_deref()).await?;
        if let Some(principal) = draft.principal.clone()
            && !draft.private.iter().any(|private| private.name == "principal")
        {
            draft = draft.sealed("principal", principal);
        }
        Prepared::sealed(draft, &sealer, idem)
    }

    async fn place(
        &self,
        prepared: Prepared,
        work: Work,
        deadline: Instant,
    ) -> Result<Appended, StoreError> {
        match self.submit(prepared, work, deadline).await? {
            Done::Recorded(place) | Done::Refused { place, .. } => Ok(place),
            Done::Replayed { .. } | Done::InFlight { .. } => {
                Err(StoreError::invalid("only an intent has a claim"))
            }
        }
    }

    async fn submit(
        &self,
        prepared: Prepared,
        work: Work,
        deadline: Instant,
    ) -> Result<Done, StoreError> {
        let (reply, receiver) = oneshot::channel();
        let call = matches!(&work, Work::Intent { .. }).then_some(prepared.record);
        let job = Job::new(prepared, work, deadline, reply);
        self.inner.queue.try_send(Message::Job(Box::new(job))).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => StoreError::unavailable("too many records wait"),
            mpsc::error::TrySendError::Closed(_) => StoreError::unavailable("the store is closed"),
        })?;
        let settled = &self.inner.settled;
        let mut answer = Answer { receiver, call, settled };
        let done = match timeout_at(deadline, &mut answer.receiver).await {
            Ok(done) => {
                answer.call = None;
                done.unwrap_or_else(|_| Err(StoreError::unavailable("the commit came too late")))
            }
            // What the writer sent before it knew that nobody waits counts.
            Err(_) => answer
                .close()
                .unwrap_or_else(|| Err(StoreError::unavailable("the commit takes too long"))),
        };
        if matches!(done, Ok(Done::Recorded(_) | Done::Refused { .. })) {
            self.inner.written.fetch_add(1, Ordering::Relaxed);
        }
        done
    }
}

/// The answer that a caller waits for. If the caller goes away after the writer answered, the writer is
/// told, so that a durable intent that nobody saw gets its outcome.
struct Answer<'a> {
    receiver: oneshot::Receiver<Result<Done, StoreError>>,
    call: Option<RecordId>,
    settled: &'a Settled,
}

impl Answer<'_> {
    /// Takes the answer that is there, and no other from now on.
    fn close(&mut self) -> Option<Result<Done, StoreError>> {
        self.call = None;
        self.receiver.close();
        self.receiver.try_recv().ok()
    }
}

impl Drop for Answer<'_> {
    fn drop(&mut self) {
        if let Some(call) = self.call
            && let Some(Ok(Done::Recorded(_))) = self.close()
        {
            self.settled.abandon(call, OutcomeStatus::NotForwarded);
        }
    }
}

/// Takes the data folder for this process, until the file is dropped.
pub(crate) fn lock(folder: &Path) -> Result<File, StoreError> {
    let path = folder.join(LOCK);
    let file = open_lock(&path)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(StoreError::Locked(folder.to_owned())),
        Err(std::fs::TryLockError::Error(error)) => Err(error).at(&path),
    }
}
