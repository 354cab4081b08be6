//! Which keystore slot holds the key of which data subject.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use sqlx::{Row as _, SqliteConnection, SqlitePool};

use crate::StoreError;
use crate::db::{Column, row_sum};
use crate::keystore::{Keystore, SHARD_SLOTS};

/// The data subject of records that concern no person: the tenant itself.
pub(crate) const TENANT_SUBJECT: &str = "tenant";

/// A data subject and the slot of its key.
#[derive(Clone, Debug)]
pub(crate) struct Subject {
    pub(crate) pseudonym: String,
    pub(crate) slot: u32,
    /// Whether the row that maps subject to slot is known to be durable.
    pub(crate) durable: bool,
}

impl Subject {
    /// Returns the sum of a row of `subject`.
    pub(crate) fn sum(tenant: &str, pseudonym: &str, slot: i64) -> Vec<u8> {
        row_sum("subject", &[Column::Text(tenant), Column::Text(pseudonym), Column::Int(slot)])
    }

    /// Writes the row; another record may have written it in the meantime.
    pub(crate) async fn insert(
        &self,
        tx: &mut SqliteConnection,
        tenant: &str,
    ) -> Result<(), sqlx::Error> {
        let slot = i64::from(self.slot);
        sqlx::query(
            "INSERT INTO subject (tenant, subject, slot, sum) VALUES ($1, $2, $3, $4)
             ON CONFLICT DO NOTHING",
        )
        .bind(tenant)
        .bind(&self.pseudonym)
        .bind(slot)
        .bind(Self::sum(tenant, &self.pseudonym, slot))
        .execute(tx)
        .await?;
        Ok(())
    }
}

#[derive(Default)]
struct Slots {
    known: HashMap<String, (u32, bool)>,
    next: u32,
}

/// All data subjects, in memory.
pub(crate) struct Subjects {
    slots: Mutex<Slots>,
}

impl Subjects {
    /// Reads the mapping. A slot whose first record was never committed is given again.
    pub(crate) async fn load(db: &SqlitePool, tenant: &str) -> Result<Self, StoreError> {
        let rows = sqlx::query("SELECT subject, slot FROM subject WHERE tenant = $1")
            .bind(tenant)
            .fetch_all(db)
            .await?;
        let mut slots = Slots::default();
        for row in rows {
            let slot = u32::try_from(row.try_get::<i64, _>(1)?)
                .map_err(|_| StoreError::corrupt("a subject's slot is out of range"))?;
            slots.next = slots.next.max(slot + 1);
            slots.known.insert(row.try_get(0)?, (slot, true));
        }
        Ok(Self { slots: Mutex::new(slots) })
    }

    /// Returns the subject with its slot; a new one gets the next free slot.
    pub(crate) fn get(&self, pseudonym: &str) -> Subject {
        let mut slots = self.lock();
        let next = slots.next;
        let (slot, durable) = match slots.known.get(pseudonym) {
            Some(known) => *known,
            None => {
                slots.known.insert(pseudonym.to_owned(), (next, false));
                slots.next += 1;
                (next, false)
            }
        };
        Subject { pseudonym: pseudonym.to_owned(), slot, durable }
    }

    /// Remembers that the subject's row is durable.
    pub(crate) fn committed(&self, pseudonym: &str) {
        if let Some((_, durable)) = self.lock().known.get_mut(pseudonym) {
            *durable = true;
        }
    }

    /// Returns the shard that holds the next free slots, for making it ahead of need.
    pub(crate) fn shard_ahead(&self) -> u32 {
        (self.lock().next + SHARD_SLOTS / 2) / SHARD_SLOTS
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
