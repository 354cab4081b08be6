//! Erases a person, and holds that forbid it.
//!
//! The steps, each of which can be done again: the request becomes a durable record; the person's next
//! record gets another key; records in flight under the old key are waited for; the key is destroyed;
//! sealed sections, kept results and the mapping are deleted and the write-ahead log is emptied; a second
//! record says that it is done. [`Store::open`] carries on what a crash cut off. Leaves and proofs stay.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use countersign_ledger::close::day_of;
use countersign_model::{Draft, Kind, RecordId};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

use crate::db::{Column, Pool, int};
use crate::effect::{Effect, Purge};
use crate::keystore::SHARD_SLOTS;
use crate::store::Inner;
use crate::subject::{blocking, names};
use crate::writer::Message;
use crate::{Appended, Reader, Store, StoreError};

/// Longest ticket id, in bytes: it is public.
pub const TICKET_BYTES_MAX: usize = 100;

/// Rows that one transaction of an erasure deletes.
const PURGE_ROWS: usize = 256;
/// Row ids that one look through a table covers, so that no read holds the write-ahead log for long.
const SCAN_ROWS: i64 = 50_000;
/// How often a state that will come is looked for.
const POLL: Duration = Duration::from_millis(5);
/// How long readers may keep the write-ahead log from being emptied.
const LOG_PATIENCE: Duration = Duration::from_secs(10);

/// What an erasure destroyed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Erased {
    /// The person's pseudonym, which leaves go on showing.
    pub subject: String,
    /// The ticket under which it was asked for.
    pub ticket: String,
    /// Records whose private fields are gone.
    pub records: u64,
    /// Sealed sections of these records, and results kept for repeated calls.
    pub sections: u64,
    /// The record that says so.
    pub record: Appended,
}

impl Erased {
    /// Returns it as the command line and the control plane show it.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let Self { subject, ticket, records, sections, record } = self;
        json!({
            "subject": subject,
            "ticket": ticket,
            "records": records,
            "sections": sections,
            "record_id": record.record_id,
            "index": record.index.map(|index| index.0),
        })
    }
}

/// A legal hold in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// The person's pseudonym.
    pub subject: String,
    /// When it was set, in Unix milliseconds.
    pub since_ms: i64,
    /// The record of it; its private fields name the person, the reason and who set it.
    pub record_id: RecordId,
}

/// A recorded request, as far as its leaf tells.
#[derive(Clone, Debug, Default)]
struct Request {
    record: String,
    subject: String,
    ticket: String,
    slots: Vec<u32>,
    records: u64,
    sections: u64,
}

/// Rows under a person's key.
#[derive(Default)]
struct Found {
    records: HashSet<Vec<u8>>,
    sealed: Vec<i64>,
    replay: Vec<i64>,
}

impl Found {
    fn records(&self) -> u64 {
        u64::try_from(self.records.len()).unwrap_or(u64::MAX)
    }

    fn sections(&self) -> u64 {
        u64::try_from(self.sealed.len() + self.replay.len()).unwrap_or(u64::MAX)
    }
}

impl Store {
    /// Erases a person: destroys the key, deletes what it sealed, and records both the request and its end.
    ///
    /// `ticket` is public: letters, digits and `. _ : / # -`. `reason` and `actor` are sealed under the
    /// tenant's key. Erasing again erases what was recorded since; nothing may be left to erase.
    ///
    /// # Errors
    /// [`StoreError::UnknownSubject`], [`StoreError::Held`], [`StoreError::Invalid`], and
    /// [`StoreError::Overtaken`] if another gateway set a hold at the same moment. After any other error
    /// the erasure is carried on at the next start, or by asking again.
    pub async fn erase(
        &self,
        person: &str,
        ticket: &str,
        reason: Option<&str>,
        actor: &str,
    ) -> Result<Erased, StoreError> {
        let fits = |b: u8| b.is_ascii_alphanumeric() || b"._:/#-".contains(&b);
        if ticket.is_empty() || ticket.len() > TICKET_BYTES_MAX || !ticket.bytes().all(fits) {
            return Err(StoreError::invalid(format!(
                "a ticket has 1 to {TICKET_BYTES_MAX} letters, digits or `. _ : / # -`"
            )));
        }
        let mut draft = Draft::new(self.new_id(), Kind::Erasure)
            .with("phase", "requested")
            .with("ticket", ticket)
            .sealed("actor", actor);
        if let Some(reason) = reason {
            draft = draft.sealed("reason", reason);
        }
        let (store, person) = (self.clone(), person.to_owned());
        // A task of its own: a caller that goes away does not stop it half-way.
        let work = tokio::spawn(async move { store.request_erasure(&person, draft).await });
        work.await.unwrap_or_else(|_| Err(StoreError::unavailable("the erasure ended early")))
    }

    async fn request_erasure(&self, person: &str, draft: Draft) -> Result<Erased, StoreError> {
        let inner = &*self.inner;
        let _alone = inner.erasing.lock().await;
        let tenant = inner.config.tenant.as_str();
        let subject = self.pseudonym(person)?;
        self.must_not_be_held(person, &subject).await?;
        let names = names(&inner.read, tenant, &subject).await?;
        let mut slots: Vec<u32> = names.iter().map(|(_, slot)| *slot).collect();
        let in_use = inner.subjects.known(&subject);
        slots.extend(in_use.filter(|slot| inner.keys.has_shard(slot / SHARD_SLOTS)));
        slots.sort_unstable();
        slots.dedup();
        let before = erasures(&inner.read, tenant).await?;
        if slots.is_empty() && before.iter().all(|leaf| text(leaf, "subject") != subject) {
            return Err(StoreError::UnknownSubject(person.to_owned()));
        }
        let mut found = Found::default();
        for (name, _) in &names {
            self.find(name, &mut found).await?;
        }
        // That may have taken long. What changes from here on makes the request fail.
        let news = self.news().await?;
        self.must_not_be_held(person, &subject).await?;
        let draft = draft
            .with("subject", subject)
            .with("slots", slots)
            .with("records", found.records())
            .with("sections", found.sections());
        let request =
            Request::of(&Value::Object(draft.public.clone()), &draft.record_id.to_string());
        self.append_with(draft, vec![Effect::Unchanged { news }, Effect::TellOthers]).await?;
        self.carry_out(request).await
    }

    async fn must_not_be_held(&self, person: &str, subject: &str) -> Result<(), StoreError> {
        let (db, tenant) = (&self.inner.read, self.inner.config.tenant.as_str());
        if holds(db, tenant).await?.contains_key(subject) {
            return Err(StoreError::Held(person.to_owned()));
        }
        Ok(())
    }

    /// Does everything that follows a durable request.
    async fn carry_out(&self, request: Request) -> Result<Erased, StoreError> {
        let Request { record, subject, ticket, slots, records, sections } = request;
        let inner = &*self.inner;
        inner.subjects.retire(&subject, &slots);
        if inner.servers.is_some() {
            // Other gateways hear of it, and what they have sealed is durable by then or refused.
            sleep(inner.config.commit_deadline * 2).await;
        }
        self.wait_idle(&subject).await?;
        let (keys, doomed) = (Arc::clone(&inner.keys), slots.clone());
        blocking(move || keys.destroy_subjects(&doomed)).await?;
        let mut found = Found::default();
        for (name, slot) in names(&inner.read, inner.config.tenant.as_str(), &subject).await? {
            if slots.contains(&slot) {
                self.purge(name, &mut found).await?;
            }
        }
        inner.subjects.left(&subject);
        self.empty_log().await?;
        // After a crash less is found than was asked for: the rest is gone already.
        let (records, sections) = (records.max(found.records()), sections.max(found.sections()));
        let draft = Draft::new(self.new_id(), Kind::Erasure)
            .with("phase", "done")
            .with("subject", subject.as_str())
            .with("ticket", ticket.as_str())
            .with("request", record)
            .with("records", records)
            .with("sections", sections);
        let record = self.append(draft).await?;
        Ok(Erased { subject, ticket, records, sections, record })
    }

    /// Carries on the erasures that were requested and are not done.
    pub(crate) async fn carry_on_erasures(&self) -> Result<(), StoreError> {
        let _alone = self.inner.erasing.lock().await;
        let tenant = self.inner.config.tenant.as_str();
        let pending = pending(&erasures(&self.inner.read, tenant).await?);
        // First of all none of these keys is used again, whatever fails afterwards.
        for request in pending.values() {
            self.inner.subjects.retire(&request.subject, &request.slots);
        }
        for request in pending.into_values() {
            let Erased { subject, ticket, .. } = self.carry_out(request).await?;
            tracing::warn!(subject, ticket, "an erasure was carried on after the last stop");
        }
        Ok(())
    }

    /// Takes the keys out of use that another gateway's erasure destroys.
    pub(crate) async fn heed_erasures(&self) -> Result<(), StoreError> {
        let Inner { read, config, subjects, keys, .. } = &*self.inner;
        // Only keys in memory are let go of: that needs no proof, and happens often.
        let erasures = ERASURES.read_of_streams(read, config.tenant.as_str()).await?;
        self.heed_purges(&erasures);
        for leaf in &erasures {
            let Request { subject, slots, .. } = Request::of(leaf, text(leaf, "record_id"));
            if text(leaf, "phase") == "requested" {
                subjects.retire(&subject, &slots);
                keys.forget_subjects(&slots);
            }
        }
        Ok(())
    }

    /// Waits until no record in flight is sealed under a key that is to be destroyed.
    async fn wait_idle(&self, subject: &str) -> Result<(), StoreError> {
        let deadline = Instant::now() + self.inner.config.commit_deadline * 2;
        while !self.inner.subjects.is_idle(subject) {
            if Instant::now() > deadline {
                return Err(StoreError::unavailable("records of the person are still under way"));
            }
            sleep(POLL).await;
        }
        Ok(())
    }

    /// Deletes the rows under a name, and last the name itself.
    async fn purge(&self, name: String, all: &mut Found) -> Result<(), StoreError> {
        let mut found = Found::default();
        self.find(&name, &mut found).await?;
        if self.inner.servers.is_some() {
            all.records.extend(found.records);
            all.sealed.extend(found.sealed);
            all.replay.extend(found.replay);
            return self.ask(Purge::Name { name }).await;
        }
        for rows in found.sealed.chunks(PURGE_ROWS) {
            self.ask(Purge::Sealed { name: name.clone(), rows: rows.to_vec() }).await?;
        }
        for rows in found.replay.chunks(PURGE_ROWS) {
            self.ask(Purge::Replay { name: name.clone(), rows: rows.to_vec() }).await?;
        }
        all.records.extend(found.records);
        all.sealed.extend(found.sealed);
        all.replay.extend(found.replay);
        self.ask(Purge::Subject { name }).await
    }

    /// Empties the write-ahead log, which holds pages as they were before.
    pub(crate) async fn empty_log(&self) -> Result<(), StoreError> {
        let deadline = Instant::now() + LOG_PATIENCE;
        loop {
            match self.ask(Purge::Log).await {
                Err(StoreError::Unavailable { .. })
                    if Instant::now() < deadline && !self.is_closed() =>
                {
                    sleep(POLL * 20).await;
                }
                done => return done,
            }
        }
    }

    async fn ask(&self, purge: Purge) -> Result<(), StoreError> {
        let (reply, answer) = oneshot::channel();
        self.send(Message::Purge(purge, reply)).await?;
        answer.await.unwrap_or_else(|_| Err(StoreError::unavailable("the store is closed")))
    }

    /// Looks for the rows under a name. No index leads there: every other write would pay for it.
    async fn find(&self, name: &str, found: &mut Found) -> Result<(), StoreError> {
        const SEALED: &str = "SELECT rowid, record FROM sealed
              WHERE subject = $1 AND rowid > $2 AND rowid <= $3";
        const REPLAY: &str = "SELECT rowid, record FROM replay
              WHERE subject = $1 AND rowid > $2 AND rowid <= $3";
        let db = &self.inner.read;
        if self.inner.servers.is_some() {
            return find_named(db, self.inner.config.tenant.as_str(), name, found).await;
        }
        let sealed = "SELECT coalesce(min(rowid), 0), coalesce(max(rowid), 0) FROM sealed";
        let replay = "SELECT coalesce(min(rowid), 0), coalesce(max(rowid), 0) FROM replay";
        for (record, rowid) in scan(db, sealed, SEALED, name).await? {
            found.records.insert(record);
            found.sealed.push(rowid);
        }
        let results = scan(db, replay, REPLAY, name).await?;
        found.replay.extend(results.into_iter().map(|(_, rowid)| rowid));
        Ok(())
    }

    /// Forbids the erasure of a person until the hold is lifted. The reason is sealed under the person's
    /// key.
    ///
    /// # Errors
    /// [`StoreError::Hold`] if the person is on hold, or an erasure was requested and is not done;
    /// [`StoreError::Overtaken`], [`StoreError::Unavailable`].
    pub async fn set_hold(
        &self,
        person: &str,
        reason: &str,
        actor: &str,
    ) -> Result<Appended, StoreError> {
        let _alone = self.inner.erasing.lock().await;
        let (subject, db) = (self.pseudonym(person)?, &self.inner.read);
        let tenant = self.inner.config.tenant.as_str();
        let news = self.news().await?;
        if holds(db, tenant).await?.contains_key(&subject) {
            return Err(StoreError::Hold("the person is under a legal hold already"));
        }
        if pending(&erasures(db, tenant).await?).contains_key(&subject) {
            return Err(StoreError::Hold("an erasure of the person is under way"));
        }
        let draft = self.hold("set", person, Some(reason), actor);
        self.append_with(draft, vec![Effect::Unchanged { news }, Effect::TellOthers]).await
    }

    /// Lifts a hold.
    ///
    /// # Errors
    /// [`StoreError::Hold`] if there is none; [`StoreError::Unavailable`].
    pub async fn lift_hold(
        &self,
        person: &str,
        reason: Option<&str>,
        actor: &str,
    ) -> Result<Appended, StoreError> {
        let _alone = self.inner.erasing.lock().await;
        let tenant = self.inner.config.tenant.as_str();
        if !holds(&self.inner.read, tenant).await?.contains_key(&self.pseudonym(person)?) {
            return Err(StoreError::Hold("the person is under no legal hold"));
        }
        self.append(self.hold("lift", person, reason, actor)).await
    }

    fn hold(&self, action: &str, person: &str, reason: Option<&str>, actor: &str) -> Draft {
        let draft = Draft::new(self.new_id(), Kind::LegalHold)
            .with("action", action)
            .about(person)
            .sealed("actor", actor);
        match reason {
            Some(reason) => draft.sealed("reason", reason),
            None => draft,
        }
    }
}

impl Reader {
    /// Returns the legal holds in force, oldest first.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Corrupt`].
    pub async fn holds(&self) -> Result<Vec<Hold>, StoreError> {
        let mut holds: Vec<Hold> =
            holds(&self.db, self.tenant.as_str()).await?.into_values().collect();
        holds.sort_by_key(|hold| (hold.since_ms, hold.record_id));
        Ok(holds)
    }

    /// Says when and why the private fields of a leaf were erased, if they were.
    pub(crate) async fn erased(&self, leaf: &Value) -> Result<Option<String>, StoreError> {
        let subject = text(leaf, "principal");
        let erasures = erasures(&self.db, self.tenant.as_str()).await?;
        Ok(covering(&erasures, subject, time(leaf)).map(|erasure| {
            let ticket = text(erasure, "ticket");
            match text(erasure, "phase") {
                "done" => format!(
                    "erased on {}, ticket `{ticket}`",
                    day_of(u64::try_from(time(erasure).0).unwrap_or(0))
                ),
                _ => format!("their erasure is under way, ticket `{ticket}`"),
            }
        }))
    }
}

impl Request {
    /// Reads a request from its leaf.
    fn of(leaf: &Value, record: &str) -> Self {
        let number = |name| leaf.get(name).and_then(Value::as_u64).unwrap_or(0);
        let slots = leaf.get("slots").and_then(Value::as_array).into_iter().flatten();
        Self {
            record: record.to_owned(),
            subject: text(leaf, "subject").to_owned(),
            ticket: text(leaf, "ticket").to_owned(),
            slots: slots.filter_map(|slot| u32::try_from(slot.as_u64()?).ok()).collect(),
            records: number("records"),
            sections: number("sections"),
        }
    }
}

/// Returns the requests that no record says to be done, by subject; several of one subject are one.
fn pending(erasures: &[Value]) -> BTreeMap<String, Request> {
    let mut pending: BTreeMap<String, Request> = BTreeMap::new();
    for leaf in erasures {
        let mut request = Request::of(leaf, text(leaf, "record_id"));
        let earlier = pending.remove(&request.subject);
        if text(leaf, "phase") != "requested" {
            continue;
        }
        if let Some(earlier) = earlier {
            request.slots.extend(earlier.slots);
            request.records = request.records.max(earlier.records);
            request.sections = request.sections.max(earlier.sections);
        }
        pending.insert(request.subject.clone(), request);
    }
    pending
}

/// Returns the first erasure of a subject that ended after a time, or else the one that is under way.
pub(crate) fn covering<'a>(
    erasures: &'a [Value],
    subject: &str,
    after: (i64, u64),
) -> Option<&'a Value> {
    let is_of = |leaf: &&Value| !subject.is_empty() && text(leaf, "subject") == subject;
    let is_done = |leaf: &&Value| text(leaf, "phase") == "done";
    let mut of_subject = erasures.iter().filter(is_of);
    let last = of_subject.clone().next_back();
    let done = of_subject.find(|leaf| is_done(leaf) && time(leaf) > after);
    done.or_else(|| last.filter(|leaf| !is_done(leaf)))
}

/// Returns the leaves of erasures, oldest first.
pub(crate) async fn erasures(db: &Pool, tenant: &str) -> Result<Vec<Value>, StoreError> {
    ERASURES.read(db, tenant).await
}

/// How records of one rare kind are looked up. The kind is a literal: a partial index leads there.
pub(crate) struct OfKind {
    /// All of them. SQLite gives a record its leaf in the same transaction.
    all: &'static str,
    /// PostgreSQL: those of gateways' streams, whether ordered or not.
    of_streams: &'static str,
    /// PostgreSQL: leaves, and records that their stream has and the log does not yet. A row of an
    /// unknown stream, or one that its stream has left behind, will never be a leaf: it says nothing.
    of_log_and_ahead: &'static str,
    /// PostgreSQL: leaves before one of index `$2`.
    of_log: &'static str,
    /// PostgreSQL: records that their stream has and the log does not yet.
    ahead: &'static str,
}

macro_rules! leaf_of_intake {
    () => {
        "l.tenant = i.tenant AND l.replica = i.replica AND l.epoch = i.epoch AND l.seq = i.seq
            AND l.idx < (SELECT size FROM frontier WHERE tenant = $1)"
    };
}

macro_rules! stream_of_intake {
    () => {
        "stream s ON s.tenant = i.tenant AND s.replica = i.replica
         LEFT JOIN position p ON p.tenant = i.tenant AND p.replica = i.replica"
    };
}

macro_rules! of_kind {
    ($kind:literal) => {
        OfKind {
            all: concat!("SELECT body FROM intake WHERE tenant = $1 AND kind = '", $kind, "'"),
            of_streams: concat!(
                "SELECT i.body FROM intake i
                   JOIN stream s ON s.tenant = i.tenant AND s.replica = i.replica
                  WHERE i.tenant = $1 AND i.kind = '",
                $kind,
                "'"
            ),
            of_log_and_ahead: concat!(
                "SELECT i.body FROM intake i LEFT JOIN leaf l ON ",
                leaf_of_intake!(),
                " LEFT JOIN ",
                stream_of_intake!(),
                " WHERE i.tenant = $1 AND i.kind = '",
                $kind,
                "' AND (l.idx IS NOT NULL OR (s.replica IS NOT NULL
                   AND (i.epoch, i.seq) > (coalesce(p.epoch, 0), coalesce(p.seq, 0))))"
            ),
            of_log: concat!(
                "SELECT i.body FROM intake i JOIN leaf l ON ",
                leaf_of_intake!(),
                " WHERE i.tenant = $1 AND l.idx < $2 AND i.kind = '",
                $kind,
                "'"
            ),
            ahead: concat!(
                "SELECT i.body FROM intake i JOIN ",
                stream_of_intake!(),
                " WHERE i.tenant = $1 AND i.kind = '",
                $kind,
                "' AND (i.epoch, i.seq) > (coalesce(p.epoch, 0), coalesce(p.seq, 0))"
            ),
        }
    };
}

/// Erasures and purges.
pub(crate) const ERASURES: OfKind = of_kind!("erasure");
/// Changes of configuration.
pub(crate) const CHANGES: OfKind = of_kind!("change");
/// Daily closes.
pub(crate) const CLOSES: OfKind = of_kind!("close");
/// Legal holds.
pub(crate) const HOLDS: OfKind = of_kind!("legal_hold");

impl OfKind {
    /// Returns the queries that look at leaves in PostgreSQL.
    #[cfg(test)]
    pub(crate) fn of_leaves(&self) -> [&'static str; 2] {
        [self.of_log_and_ahead, self.of_log]
    }

    /// Reads leaves, oldest first; in PostgreSQL also records that will be leaves.
    pub(crate) async fn read(&self, db: &Pool, tenant: &str) -> Result<Vec<Value>, StoreError> {
        let is_shared = matches!(db, Pool::Postgres(_));
        let sql = if is_shared { self.of_log_and_ahead } else { self.all };
        select(db, sql, &[Column::Text(tenant)]).await
    }

    /// Reads what gateways' streams have (PostgreSQL), without a look at the leaves.
    async fn read_of_streams(&self, db: &Pool, tenant: &str) -> Result<Vec<Value>, StoreError> {
        let is_shared = matches!(db, Pool::Postgres(_));
        let sql = if is_shared { self.of_streams } else { self.all };
        select(db, sql, &[Column::Text(tenant)]).await
    }

    /// Reads leaves before one alone (PostgreSQL), oldest first.
    pub(crate) async fn read_ordered(
        &self,
        db: &Pool,
        tenant: &str,
        before: u64,
    ) -> Result<Vec<Value>, StoreError> {
        select(db, self.of_log, &[Column::Text(tenant), Column::Int(int(before))]).await
    }

    /// Reads records that will be leaves (PostgreSQL), oldest first.
    pub(crate) async fn read_ahead(
        &self,
        db: &Pool,
        tenant: &str,
    ) -> Result<Vec<Value>, StoreError> {
        select(db, self.ahead, &[Column::Text(tenant)]).await
    }
}

async fn select(
    db: &Pool,
    sql: &'static str,
    args: &[Column<'_>],
) -> Result<Vec<Value>, StoreError> {
    let rows = db.fetch_all(sql, args).await?;
    let bodies: Vec<Vec<u8>> = rows.iter().map(|row| row.get(0)).collect::<Result<_, _>>()?;
    let mut leaves = parse(&bodies)?;
    leaves.sort_by_key(time);
    Ok(leaves)
}

/// Reads the bytes of leaves.
pub(crate) fn parse(bodies: &[Vec<u8>]) -> Result<Vec<Value>, StoreError> {
    let damaged = |_| StoreError::corrupt("the leaf of an erasure, a hold, a change or a close");
    bodies.iter().map(|body| serde_json::from_slice(body).map_err(damaged)).collect()
}

/// Returns the holds in force by subject.
pub(crate) async fn holds(db: &Pool, tenant: &str) -> Result<BTreeMap<String, Hold>, StoreError> {
    let mut holds = BTreeMap::new();
    for leaf in HOLDS.read(db, tenant).await? {
        let subject = text(&leaf, "principal").to_owned();
        if text(&leaf, "action") == "set" {
            let record_id = text(&leaf, "record_id").parse();
            let record_id = record_id.map_err(|_| StoreError::corrupt("a hold without an id"))?;
            let hold = Hold { subject: subject.clone(), since_ms: time(&leaf).0, record_id };
            holds.insert(subject, hold);
        } else {
            holds.remove(&subject);
        }
    }
    Ok(holds)
}

/// Looks for the rows under a name in PostgreSQL, whose readers keep nobody from writing; rows have no
/// ids there, so they are only counted.
async fn find_named(
    db: &Pool,
    tenant: &str,
    name: &str,
    found: &mut Found,
) -> Result<(), StoreError> {
    let args = [tenant, name].map(Column::Text);
    let sealed = "SELECT record FROM sealed WHERE tenant = $1 AND subject = $2";
    for (n, row) in (0..).zip(db.fetch_all(sealed, &args).await?) {
        found.records.insert(row.get(0)?);
        found.sealed.push(n);
    }
    let replay = "SELECT record FROM replay WHERE tenant = $1 AND subject = $2";
    let results = db.fetch_all(replay, &args).await?;
    found.replay.extend((0..).zip(results).map(|(n, _)| n));
    Ok(())
}

/// Returns records and row ids under a name, window by window.
async fn scan(
    db: &Pool,
    bounds: &'static str,
    rows: &'static str,
    name: &str,
) -> Result<Vec<(Vec<u8>, i64)>, StoreError> {
    let ends = db.fetch_one(bounds, &[]).await?;
    let (first, last): (i64, i64) = (ends.get(0)?, ends.get(1)?);
    let (mut found, mut from) = (Vec::new(), first - 1);
    while from < last {
        let until = from.saturating_add(SCAN_ROWS);
        let args = [Column::Text(name), Column::Int(from), Column::Int(until)];
        for row in db.fetch_all(rows, &args).await? {
            found.push((row.get(1)?, row.get(0)?));
        }
        from = until;
    }
    Ok(found)
}

fn text<'a>(leaf: &'a Value, name: &str) -> &'a str {
    leaf.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// Returns milliseconds and counter of a leaf's time, which grows along the log.
pub(crate) fn time(leaf: &Value) -> (i64, u64) {
    let part = |name| leaf.pointer(name).unwrap_or(&Value::Null);
    (part("/time/ms").as_i64().unwrap_or(0), part("/time/n").as_u64().unwrap_or(0))
}
