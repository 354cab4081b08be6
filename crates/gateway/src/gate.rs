//! Whether calls go on at all, whatever policy says: not while the log is anchored too seldom.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Open from the start; whoever watches the anchors of the log closes and opens it. Clones are the same gate.
#[derive(Clone, Debug, Default)]
pub struct Gate {
    closed: Arc<AtomicBool>,
}

impl Gate {
    /// Closes or opens the gate. A call that was recorded before goes on; returns whether anything changed.
    pub fn set_closed(&self, closed: bool) -> bool {
        self.closed.swap(closed, Ordering::SeqCst) != closed
    }

    /// Tells whether calls are refused.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }
}
