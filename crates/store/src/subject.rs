//! Which keystore slot holds the key of which data subject.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::StoreError;
use crate::db::{Column, Conn, Pool, Row, row_sum};
use crate::keystore::{Keystore, SHARD_SLOTS};

/// The data subject of records that concern no person: the tenant itself.
pub(crate) const TENANT_SUBJECT: &str = "tenant";

/// Gateways that share a keystore: each has the slots of one range to give.
pub(crate) const SLOT_RANGES_MAX: u32 = 256;

/// Slots of one gateway, of several that share a keystore.
pub(crate) const RANGE_SLOTS: u32 = 1 << 24;

/// Between a pseudonym and a slot in the name of a later key; base64url does not have it.
const LATER: char = '.';

/// A data subject and the slot of its key. Whoever has one keeps the key from being destroyed.
#[derive(Clone, Debug)]
pub(crate) struct Subject {
    /// What leaves show.
    pub(crate) pseudonym: String,
    /// What rows show: the pseudonym, or `<pseudonym>.<slot>` while rows under an erased key may be there.
    pub(crate) name: String,
    pub(crate) slot: u32,
    /// Whether the row that maps the name to the slot is known to be durable.
    pub(crate) durable: bool,
    #[expect(dead_code, reason = "it is counted: the key is in use for as long as it is there")]
    users: Arc<()>,
}

impl Subject {
    /// Returns the sum of a row of `subject`.
    pub(crate) fn sum(tenant: &str, name: &str, slot: i64) -> Vec<u8> {
        row_sum("subject", &[Column::Text(tenant), Column::Text(name), Column::Int(slot)])
    }

    /// Writes the row; another record may have written it in the meantime.
    pub(crate) async fn insert(&self, tx: &mut Conn, tenant: &str) -> Result<(), sqlx::Error> {
        let slot = i64::from(self.slot);
        let sum = Self::sum(tenant, &self.name, slot);
        let (tenant, name) = (Column::Text(tenant), Column::Text(&self.name));
        tx.execute(
            "INSERT INTO subject (tenant, subject, slot, sum) VALUES ($1, $2, $3, $4)
             ON CONFLICT DO NOTHING",
            &[tenant, name, Column::Int(slot), Column::Blob(&sum)],
        )
        .await?;
        Ok(())
    }
}

/// The key that is in use for a pseudonym.
struct InUse {
    slot: u32,
    later: bool,
    durable: bool,
    users: Arc<()>,
}

#[derive(Default)]
struct Slots {
    known: HashMap<String, InUse>,
    /// Pseudonyms whose erasure is under way, with the users of their retired keys: rows under the plain
    /// names may still be there.
    leaving: HashMap<String, Vec<Arc<()>>>,
    next: u32,
    /// Whether other gateways have slots for the same people: then every name has its slot.
    shared: bool,
}

/// All data subjects, in memory.
pub(crate) struct Subjects {
    slots: Mutex<Slots>,
}

impl Subjects {
    /// Reads the mapping. A slot whose first record was never committed is given again, unless its key
    /// was destroyed. `number` is the gateway's, if several share the keystore.
    pub(crate) async fn load(
        db: &Pool,
        tenant: &str,
        keys: &Keystore,
        number: Option<u32>,
    ) -> Result<Self, StoreError> {
        let sql = "SELECT subject, slot FROM subject WHERE tenant = $1 ORDER BY slot";
        let rows = db.fetch_all(sql, &[Column::Text(tenant)]).await?;
        let first = number.unwrap_or(0) * RANGE_SLOTS;
        let mut slots = Slots { next: first, shared: number.is_some(), ..Slots::default() };
        for row in rows {
            let slot = slot_at(&row, 1)?;
            if slots.shared && slot / RANGE_SLOTS != first / RANGE_SLOTS {
                continue;
            }
            let name: String = row.get(0)?;
            let (pseudonym, later) = match name.split_once(LATER) {
                Some((pseudonym, _)) => (pseudonym.to_owned(), true),
                None => (name, false),
            };
            slots.next = slots.next.max(slot + 1);
            let in_use = InUse { slot, later, durable: true, users: Arc::default() };
            slots.known.insert(pseudonym, in_use);
        }
        slots.next = keys.after_destroyed(slots.next)?;
        Ok(Self { slots: Mutex::new(slots) })
    }

    /// Returns the subject with its slot; a new one gets the next free slot.
    pub(crate) fn get(&self, pseudonym: &str) -> Subject {
        let mut slots = self.lock();
        let Slots { known, leaving, next, shared } = &mut *slots;
        let in_use = match known.get(pseudonym) {
            Some(in_use) => in_use,
            None => {
                let (slot, later) = (*next, *shared || leaving.contains_key(pseudonym));
                *next += 1;
                let new = InUse { slot, later, durable: false, users: Arc::default() };
                &*known.entry(pseudonym.to_owned()).or_insert(new)
            }
        };
        let InUse { slot, later, durable, .. } = *in_use;
        let (pseudonym, users) = (pseudonym.to_owned(), Arc::clone(&in_use.users));
        let name = if later { format!("{pseudonym}{LATER}{slot}") } else { pseudonym.clone() };
        Subject { pseudonym, name, slot, durable, users }
    }

    /// Returns the slot of the key that a row's name stands for, if that key is in use or another
    /// gateway's.
    pub(crate) fn slot_of(&self, name: &str) -> Option<u32> {
        let (pseudonym, slot) = match name.split_once(LATER) {
            Some((pseudonym, slot)) => (pseudonym, Some(slot.parse::<u32>().ok()?)),
            None => (name, None),
        };
        let slots = self.lock();
        if slots.shared {
            return slot;
        }
        let in_use = slots.known.get(pseudonym)?;
        let fits = if in_use.later { slot == Some(in_use.slot) } else { slot.is_none() };
        fits.then_some(in_use.slot)
    }

    /// Returns the slot in use for a pseudonym.
    pub(crate) fn known(&self, pseudonym: &str) -> Option<u32> {
        self.lock().known.get(pseudonym).map(|in_use| in_use.slot)
    }

    /// Remembers that the subject's row is durable.
    pub(crate) fn committed(&self, subject: &Subject) {
        if let Some(in_use) = self.lock().known.get_mut(&subject.pseudonym)
            && in_use.slot == subject.slot
        {
            in_use.durable = true;
        }
    }

    /// Takes slots out of use for good: from now on the pseudonym gets another one, under a later name.
    pub(crate) fn retire(&self, pseudonym: &str, retired: &[u32]) {
        let mut slots = self.lock();
        let Slots { known, leaving, next, .. } = &mut *slots;
        *next = retired.iter().fold(*next, |next, slot| next.max(slot + 1));
        let users = leaving.entry(pseudonym.to_owned()).or_default();
        if known.get(pseudonym).is_some_and(|in_use| retired.contains(&in_use.slot)) {
            users.extend(known.remove(pseudonym).map(|in_use| in_use.users));
        }
    }

    /// Returns whether no record in flight is sealed under a retired key of the pseudonym.
    pub(crate) fn is_idle(&self, pseudonym: &str) -> bool {
        let slots = self.lock();
        let mut users = slots.leaving.get(pseudonym).into_iter().flatten();
        users.all(|users| Arc::strong_count(users) == 1)
    }

    /// Remembers that no row under an erased key of the pseudonym is left.
    pub(crate) fn left(&self, pseudonym: &str) {
        self.lock().leaving.remove(pseudonym);
    }

    /// Returns the shard that holds the next free slots, for making it ahead of need.
    pub(crate) fn shard_ahead(&self) -> u32 {
        (self.lock().next + SHARD_SLOTS / 2) / SHARD_SLOTS
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn slot_at(row: &Row, place: usize) -> Result<u32, StoreError> {
    let slot: i64 = row.get(place)?;
    u32::try_from(slot).map_err(|_| StoreError::corrupt("a subject's slot is out of range"))
}

/// Returns the names under which a pseudonym's rows stand, each with its slot.
pub(crate) async fn names(
    db: &Pool,
    tenant: &str,
    pseudonym: &str,
) -> Result<Vec<(String, u32)>, StoreError> {
    // Later names are the only ones between the pseudonym with a dot and with the next character.
    let (first, after) = (format!("{pseudonym}{LATER}"), format!("{pseudonym}/"));
    let args = [tenant, pseudonym, &first, &after].map(Column::Text);
    let rows = db
        .fetch_all(
            "SELECT subject, slot FROM subject
              WHERE tenant = $1 AND (subject = $2 OR (subject > $3 AND subject < $4))",
            &args,
        )
        .await?;
    rows.iter().map(|row| Ok((row.get(0)?, slot_at(row, 1)?))).collect()
}

/// Makes the keys that sealing for `slot` and the next subjects takes, if they are not in memory.
pub(crate) async fn ready_keys(
    keys: &Arc<Keystore>,
    slot: u32,
    ahead: u32,
    period: &str,
) -> Result<(), StoreError> {
    let shard = slot / SHARD_SLOTS;
    if !keys.has_shard(shard) || !keys.has_period(period) {
        let (keys, period) = (Arc::clone(keys), period.to_owned());
        blocking(move || keys.make_shard(shard).and_then(|()| keys.make_period(&period).map(drop)))
            .await?;
    }
    if !keys.has_shard(ahead) {
        let keys = Arc::clone(keys);
        tokio::task::spawn_blocking(move || {
            if let Err(error) = keys.make_shard(ahead) {
                tracing::warn!(%error, "cannot make subject keys ahead of need");
            }
        });
    }
    Ok(())
}

/// Runs what blocks on the disk where blocking is allowed.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(_) => Err(StoreError::unavailable("a worker thread ended early")),
    }
}
