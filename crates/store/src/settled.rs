//! Tells waiting callers that a call has its outcome, and the writer that a caller is gone.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use countersign_model::{OutcomeStatus, RecordId};
use tokio::sync::Notify;

/// The calls that somebody waits for.
#[derive(Default)]
pub(crate) struct Settled {
    waiting: Mutex<HashMap<RecordId, Arc<Notify>>>,
    abandoned: Mutex<Vec<(RecordId, OutcomeStatus)>>,
}

impl Settled {
    /// Returns what is notified when the call has its outcome.
    ///
    /// Enable the notification first, then look whether the outcome is there already.
    pub(crate) fn watch(&self, call: RecordId) -> Arc<Notify> {
        Arc::clone(self.lock().entry(call).or_default())
    }

    /// Forgets a call that nobody waits for any more.
    pub(crate) fn leave(&self, call: RecordId, watched: &Arc<Notify>) {
        let mut waiting = self.lock();
        // The map's own and the caller's: nobody else waits.
        if waiting.get(&call).is_some_and(|there| Arc::ptr_eq(there, watched))
            && Arc::strong_count(watched) == 2
        {
            waiting.remove(&call);
        }
    }

    /// Wakes whoever waits for the call.
    pub(crate) fn announce(&self, call: RecordId) {
        if let Some(notify) = self.lock().remove(&call) {
            notify.notify_waiters();
        }
    }

    /// Notes how a call ended whose outcome nobody else records: a durable intent whose caller went away
    /// before it saw the receipt, or a call whose outcome could not be recorded in time.
    pub(crate) fn abandon(&self, call: RecordId, status: OutcomeStatus) {
        self.abandoned.lock().unwrap_or_else(PoisonError::into_inner).push((call, status));
    }

    /// Takes the calls that the writer has to settle.
    pub(crate) fn take_abandoned(&self) -> Vec<(RecordId, OutcomeStatus)> {
        std::mem::take(&mut *self.abandoned.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<RecordId, Arc<Notify>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
