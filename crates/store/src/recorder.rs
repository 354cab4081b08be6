//! What the recorder says about itself, so that silence can be told from loss: it starts, lives, stops.
//!
//! All three are of kind `heartbeat`: `event` is `start` or `stop`, or absent. A gateway that stops without
//! a word leaves a `gap` record at the next start, or by another gateway.

use std::sync::atomic::Ordering;

use countersign_model::{Draft, Kind};

use crate::intent::Appended;
use crate::{Store, StoreError};

impl Store {
    /// Records that a gateway serves from now on.
    ///
    /// # Errors
    /// As [`Store::append`].
    pub async fn record_start(&self) -> Result<Appended, StoreError> {
        self.say("start").await
    }

    /// Records that the gateway has stopped serving, on purpose.
    ///
    /// # Errors
    /// As [`Store::append`].
    pub async fn record_stop(&self) -> Result<Appended, StoreError> {
        self.say("stop").await
    }

    async fn say(&self, event: &str) -> Result<Appended, StoreError> {
        self.append(Draft::new(self.new_id(), Kind::Heartbeat).with("event", event)).await
    }

    /// Records that the gateway lives.
    pub(crate) async fn beat(&self) {
        let beat = Draft::new(self.new_id(), Kind::Heartbeat);
        if let Err(error) = self.append(beat).await {
            tracing::warn!(%error, "a heartbeat cannot be recorded");
        }
    }

    /// Returns how many records this process has written.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.inner.written.load(Ordering::Relaxed)
    }
}
