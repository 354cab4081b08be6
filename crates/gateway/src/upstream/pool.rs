//! The sessions with all servers: opened once per owner, reopened when dead, closed when idle.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use countersign_model::ServerName;
use futures_util::future::join_all;
use tokio::sync::Semaphore;
use tokio::time::{Instant, interval, sleep_until};

use super::config::{ClientIdentity, Transport, UpstreamConfig};
use super::error::{LostReason, UpstreamError};
use super::http::{HttpLink, Origin};
use super::limits::{
    DISCOVERY_AGE_MAX, IDLE_SWEEP_INTERVAL, RESTART_DELAY_MAX, RESTART_DELAY_MIN, STABLE_AFTER,
};
use super::link::Link;
use super::probe::{Opener, Opening};
use super::session::{ClientProfile, OwnerKey, Session};
use super::stdio::StdioLink;
use super::wire;

/// The upstream servers and the sessions with them.
#[derive(Clone, Debug)]
pub struct Upstreams {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    servers: ArcSwap<BTreeMap<ServerName, Arc<Server>>>,
    client_info: Arc<str>,
    sweeping: AtomicBool,
}

impl Upstreams {
    /// Takes the servers; nothing is connected before a session is asked for.
    ///
    /// Of two servers with one name the last counts.
    #[must_use]
    pub fn new(configs: Vec<UpstreamConfig>, identity: &ClientIdentity) -> Self {
        let mut client_info = String::from("{\"name\":");
        wire::push_json_string(&mut client_info, &identity.name);
        client_info.push_str(",\"version\":");
        wire::push_json_string(&mut client_info, &identity.version);
        client_info.push('}');
        let client_info: Arc<str> = client_info.into();
        let servers = configs.into_iter().map(|config| {
            (config.name.clone(), Arc::new(Server::new(config, Arc::clone(&client_info))))
        });
        let servers = ArcSwap::from_pointee(servers.collect());
        let sweeping = AtomicBool::new(false);
        Self { inner: Arc::new(Inner { servers, client_info, sweeping }) }
    }

    /// Adds a server; sessions with one of the same name go on until they end.
    pub fn add(&self, config: UpstreamConfig) {
        let name = config.name.clone();
        let server = Arc::new(Server::new(config, Arc::clone(&self.inner.client_info)));
        self.inner.servers.rcu(|servers| {
            let mut servers = BTreeMap::clone(servers);
            servers.insert(name.clone(), Arc::clone(&server));
            servers
        });
    }

    /// Returns the names of all servers in order.
    #[must_use]
    pub fn servers(&self) -> Vec<ServerName> {
        self.inner.servers.load().keys().cloned().collect()
    }

    /// Returns the configuration of one server.
    #[must_use]
    pub fn config(&self, server: &ServerName) -> Option<Arc<UpstreamConfig>> {
        self.inner.servers.load().get(server).map(|server| Arc::clone(&server.config))
    }

    /// Returns the session of `owner` with `server`; opens one if there is none or it is dead.
    ///
    /// However many ask at once, one session is opened. `client` is what the server is told when it
    /// is; an open session keeps what it was opened with.
    ///
    /// # Errors
    ///
    /// `NotSent` or `Incompatible`: no call has gone anywhere.
    pub async fn session(
        &self,
        server: &ServerName,
        owner: &OwnerKey,
        client: &ClientProfile,
    ) -> Result<Arc<Session>, UpstreamError> {
        let found = self.inner.servers.load().get(server).cloned();
        let found = found.ok_or_else(|| UpstreamError::UnknownServer { server: server.clone() })?;
        self.sweep_in_background();
        found.session(owner, client).await
    }

    /// Ends all sessions of `owner`; calls in flight on them are lost.
    pub async fn close_owner(&self, owner: &OwnerKey) {
        let servers = self.inner.servers.load_full();
        let sessions = servers.values().filter_map(|server| server.take(owner));
        close_all(sessions.collect()).await;
    }

    /// Ends all sessions; calls in flight are lost.
    pub async fn shutdown(&self) {
        let servers = self.inner.servers.load_full();
        let sessions = servers.values().flat_map(|server| server.take_all());
        close_all(sessions.collect()).await;
    }

    /// Starts the task that closes idle sessions, once; it ends with the last `Upstreams`.
    fn sweep_in_background(&self) {
        if !self.inner.sweeping.swap(true, Ordering::Relaxed) {
            tokio::spawn(sweep(Arc::downgrade(&self.inner)));
        }
    }
}

async fn sweep(inner: Weak<Inner>) {
    let mut ticks = interval(IDLE_SWEEP_INTERVAL);
    loop {
        ticks.tick().await;
        let Some(inner) = inner.upgrade() else { return };
        let servers = inner.servers.load_full();
        let idle = servers.values().flat_map(|server| {
            let idle_max = server.config.session_idle_max;
            server.take_if(|session| {
                session.is_dead() || (session.is_idle() && session.last_used().elapsed() > idle_max)
            })
        });
        close_all(idle.collect()).await;
    }
}

async fn close_all(sessions: Vec<Arc<Session>>) {
    join_all(sessions.iter().map(|session| session.link().close())).await;
}

/// One server and its sessions.
#[derive(Debug)]
struct Server {
    config: Arc<UpstreamConfig>,
    client_info: Arc<str>,
    /// The address and connections of an HTTP server.
    origin: Option<Arc<Origin>>,
    calls: Arc<Semaphore>,
    slots: Mutex<HashMap<OwnerKey, Arc<Slot>>>,
    known: Mutex<Known>,
}

/// Where the session of one owner stands.
#[derive(Debug, Default)]
struct Slot {
    session: ArcSwapOption<Session>,
    opening: tokio::sync::Mutex<()>,
}

/// What is remembered of a server between sessions.
#[derive(Debug, Default)]
struct Known {
    opening: Option<(Opening, Instant)>,
    crashes: u32,
    not_before: Option<Instant>,
}

impl Server {
    fn new(config: UpstreamConfig, client_info: Arc<str>) -> Self {
        let origin = match &config.transport {
            Transport::Stdio(_) => None,
            Transport::Http { url, headers } => Some(Origin::new(
                url.clone(),
                headers,
                config.connect_timeout,
                config.result_bytes_max,
            )),
        };
        let calls = Arc::new(Semaphore::new(config.calls_max.min(Semaphore::MAX_PERMITS)));
        let config = Arc::new(config);
        Self {
            config,
            client_info,
            origin,
            calls,
            slots: Mutex::default(),
            known: Mutex::default(),
        }
    }

    async fn session(
        &self,
        owner: &OwnerKey,
        client: &ClientProfile,
    ) -> Result<Arc<Session>, UpstreamError> {
        let slot = self.slot(owner).await?;
        if let Some(session) = slot.alive() {
            return Ok(session);
        }
        let _single_flight = slot.opening.lock().await;
        if let Some(session) = slot.alive() {
            return Ok(session);
        }
        if let Some(dead) = slot.session.swap(None) {
            self.bury(&dead);
        }
        let session = self.open(client).await?;
        slot.session.store(Some(Arc::clone(&session)));
        if !lock(&self.slots).get(owner).is_some_and(|kept| Arc::ptr_eq(kept, &slot)) {
            // The owner was closed while the session was being opened.
            session.link().close().await;
            return Err(self.not_sent(LostReason::Stopped));
        }
        Ok(session)
    }

    /// Returns the owner's slot; makes room for a new one by closing the oldest idle session.
    async fn slot(&self, owner: &OwnerKey) -> Result<Arc<Slot>, UpstreamError> {
        let evicted = {
            let mut slots = lock(&self.slots);
            if let Some(slot) = slots.get(owner) {
                return Ok(Arc::clone(slot));
            }
            if slots.len() >= self.config.sessions_max {
                slots.retain(|_, slot| slot.is_in_use());
            }
            let evicted = if slots.len() < self.config.sessions_max {
                None
            } else {
                let oldest = oldest_idle(&slots);
                let oldest = oldest.ok_or_else(|| self.not_sent(LostReason::Busy("sessions")))?;
                slots.remove(&oldest).and_then(|slot| slot.session.swap(None))
            };
            slots.insert(owner.clone(), Arc::default());
            evicted
        };
        close_all(evicted.into_iter().collect()).await;
        let slot = lock(&self.slots).get(owner).map(Arc::clone);
        slot.ok_or_else(|| self.not_sent(LostReason::Stopped))
    }

    async fn open(&self, client: &ClientProfile) -> Result<Arc<Session>, UpstreamError> {
        self.wait_out_crashes().await?;
        let known = self.known_opening();
        let link = self.connect()?;
        if let (Link::Http(_), Some(opening)) = (&link, &known)
            && opening.era.is_modern()
        {
            return Ok(self.made(link, opening.clone(), client));
        }
        let opener = Opener::new(&self.config.name, &link, client, &self.client_info);
        let first = match &known {
            Some(opening) if !opening.era.is_modern() => opener.initialize().await,
            _ => opener.probe().await,
        };
        match first {
            Ok(opening) => Ok(self.remembered(link, opening, client)),
            Err(error) if self.may_try_again(&link, known.is_some(), &error) => {
                link.close().await;
                self.open_again(client, known.is_some()).await
            }
            Err(error) => {
                link.close().await;
                self.note_crash(&link, None);
                Err(error)
            }
        }
    }

    /// Tries the other way on a fresh connection: the whole probe if the remembered era failed,
    /// `initialize` alone if the child exited over `server/discover`.
    async fn open_again(
        &self,
        client: &ClientProfile,
        remembered: bool,
    ) -> Result<Arc<Session>, UpstreamError> {
        lock(&self.known).opening = None;
        let link = self.connect()?;
        let opener = Opener::new(&self.config.name, &link, client, &self.client_info);
        let opening = if remembered { opener.probe().await } else { opener.initialize().await };
        match opening {
            Ok(opening) => Ok(self.remembered(link, opening, client)),
            Err(error) => {
                link.close().await;
                self.note_crash(&link, None);
                Err(error)
            }
        }
    }

    fn may_try_again(&self, link: &Link, remembered: bool, error: &UpstreamError) -> bool {
        let exited = matches!(link, Link::Stdio(_))
            && matches!(error, UpstreamError::NotSent { reason: LostReason::Closed(_), .. });
        let connected = !matches!(
            error,
            UpstreamError::NotSent { reason: LostReason::Connect(_) | LostReason::Timeout, .. }
        );
        (remembered && connected) || exited
    }

    fn connect(&self) -> Result<Link, UpstreamError> {
        match (&self.config.transport, &self.origin) {
            (Transport::Stdio(command), _) => {
                StdioLink::spawn(command, self.config.result_bytes_max)
                    .map(Link::Stdio)
                    .map_err(|error| self.not_sent(LostReason::Connect(error.to_string())))
            }
            (Transport::Http { .. }, Some(origin)) => Ok(Link::Http(HttpLink::new(origin))),
            (Transport::Http { .. }, None) => Err(self.not_sent(LostReason::Stopped)),
        }
    }

    fn remembered(&self, link: Link, opening: Opening, client: &ClientProfile) -> Arc<Session> {
        lock(&self.known).opening = Some((opening.clone(), Instant::now()));
        self.made(link, opening, client)
    }

    fn made(&self, link: Link, opening: Opening, client: &ClientProfile) -> Arc<Session> {
        Session::new(
            Arc::clone(&self.config),
            Arc::clone(&self.client_info),
            link,
            opening,
            client.clone(),
            Arc::clone(&self.calls),
        )
    }

    fn known_opening(&self) -> Option<Opening> {
        let known = lock(&self.known);
        let (opening, at) = known.opening.as_ref()?;
        (at.elapsed() < DISCOVERY_AGE_MAX).then(|| opening.clone())
    }

    /// Takes note of why a session is dead.
    fn bury(&self, dead: &Session) {
        if dead.era().is_modern() {
            // The assumption may have failed: discover again.
            lock(&self.known).opening = None;
        }
        self.note_crash(dead.link(), Some(dead.age()));
    }

    /// Counts the end of a child that nobody asked for, and sets when the next may start.
    fn note_crash(&self, link: &Link, age: Option<Duration>) {
        if !matches!(link, Link::Stdio(_)) {
            return;
        }
        let mut known = lock(&self.known);
        if age.is_some_and(|age| age > STABLE_AFTER) {
            known.crashes = 0;
        }
        let delay = RESTART_DELAY_MIN.saturating_mul(1 << known.crashes.min(16));
        known.crashes += 1;
        known.not_before = Some(Instant::now() + delay.min(RESTART_DELAY_MAX));
    }

    /// Waits until a crashed child may start again, or refuses if that is far off.
    async fn wait_out_crashes(&self) -> Result<(), UpstreamError> {
        let not_before = lock(&self.known).not_before;
        let Some(at) = not_before else { return Ok(()) };
        if at.saturating_duration_since(Instant::now()) > self.config.connect_timeout {
            return Err(self.not_sent(LostReason::Backoff));
        }
        sleep_until(at).await;
        Ok(())
    }

    fn take(&self, owner: &OwnerKey) -> Option<Arc<Session>> {
        lock(&self.slots).remove(owner).and_then(|slot| slot.session.swap(None))
    }

    fn take_all(&self) -> Vec<Arc<Session>> {
        // An opening under way finds its slot gone and closes what it has opened.
        let slots = std::mem::take(&mut *lock(&self.slots));
        slots.into_values().filter_map(|slot| slot.session.swap(None)).collect()
    }

    /// Takes out every session of which `wanted` is true, and slots whose opening failed.
    fn take_if(&self, wanted: impl Fn(&Session) -> bool) -> Vec<Arc<Session>> {
        let mut taken = Vec::new();
        lock(&self.slots).retain(|_, slot| {
            let session = slot.session.load_full().filter(|session| wanted(session));
            let keep = session.is_none() && slot.is_in_use();
            taken.extend(session);
            keep
        });
        taken
    }

    fn not_sent(&self, reason: LostReason) -> UpstreamError {
        UpstreamError::NotSent { server: self.config.name.clone(), reason }
    }
}

impl Slot {
    /// Whether there is a session or somebody who is opening one; tell it under the lock of all.
    fn is_in_use(self: &Arc<Self>) -> bool {
        self.session.load().is_some() || Arc::strong_count(self) > 1
    }

    fn alive(&self) -> Option<Arc<Session>> {
        self.session.load_full().filter(|session| !session.is_dead())
    }
}

/// Returns the owner whose idle session was used longest ago.
fn oldest_idle(slots: &HashMap<OwnerKey, Arc<Slot>>) -> Option<OwnerKey> {
    let idle = slots.iter().filter_map(|(owner, slot)| {
        let session = slot.session.load_full()?;
        session.is_idle().then(|| (session.last_used(), owner))
    });
    idle.min_by_key(|(used, _)| *used).map(|(_, owner)| owner.clone())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
