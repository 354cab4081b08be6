//! The right to reach an upstream once.

use countersign_model::RecordId;
use countersign_store::Receipt;

/// The right to send one request to an upstream.
///
/// INVARIANT: whoever holds a `Permit` has a durable decision. Its only maker takes the [`Receipt`]
/// that the store gives for a committed intent, and sending consumes it.
#[derive(Debug)]
pub struct Permit {
    evaluation_id: RecordId,
}

impl Permit {
    /// Turns the receipt of a durable decision into the right to act on it.
    #[must_use]
    #[expect(clippy::needless_pass_by_value, reason = "a receipt gives one permit, so it is spent")]
    pub fn from_receipt(receipt: Receipt) -> Self {
        Self { evaluation_id: receipt.evaluation_id() }
    }

    /// Returns the id of the decision that allowed this.
    #[must_use]
    pub fn evaluation_id(&self) -> RecordId {
        self.evaluation_id
    }
}
