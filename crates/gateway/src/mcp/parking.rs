//! Calls that wait for their client to come back with an answer (MCP 2026-07-28, multi round-trip
//! requests).
//!
//! The `requestState` that a client gets is a random handle of ours, never the upstream's state: it
//! says nothing, and opens one parked call for the agent, principal, method and arguments that made
//! it, once.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use countersign_model::AgentId;
use serde_json::value::RawValue;
use tokio::sync::oneshot;

use super::link::Attached;
use super::message::random_token;
use crate::limits::PARKED_MAX;

/// What a parked call is bound to; a retry must match in all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// The calling agent.
    pub agent: AgentId,
    /// On whose behalf.
    pub principal: String,
    /// The method.
    pub method: String,
    /// The tool, prompt or resource, as the client named it.
    pub name: String,
    /// The digest of the canonical arguments.
    pub digest: [u8; 32],
}

/// A client's retry.
#[derive(Debug)]
pub struct Resumed {
    /// The retry's response.
    pub attached: Attached,
    /// The client's `inputResponses`.
    pub responses: Box<RawValue>,
}

struct Parked {
    binding: Binding,
    resume: oneshot::Sender<Resumed>,
}

/// All parked calls of this gateway.
#[derive(Default)]
pub struct Parking {
    parked: Mutex<HashMap<String, Parked>>,
}

impl std::fmt::Debug for Parking {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parking").finish_non_exhaustive()
    }
}

impl Parking {
    /// Parks a call; `None` if [`PARKED_MAX`] calls are parked or there is no randomness.
    pub fn park(&self, binding: Binding) -> Option<(String, oneshot::Receiver<Resumed>)> {
        let state = random_token()?;
        let mut parked = self.lock();
        if parked.len() >= PARKED_MAX {
            return None;
        }
        let (resume, retry) = oneshot::channel();
        parked.insert(state.clone(), Parked { binding, resume });
        Some((state, retry))
    }

    /// Hands a retry to the call that it belongs to.
    ///
    /// # Errors
    ///
    /// Gives the retry back if the state is unknown, used, expired, or bound to something else.
    pub fn resume(&self, state: &str, binding: &Binding, retry: Resumed) -> Result<(), Resumed> {
        let mut parked = self.lock();
        if parked.get(state).is_none_or(|parked| parked.binding != *binding) {
            return Err(retry);
        }
        match parked.remove(state) {
            Some(parked) => parked.resume.send(retry),
            None => Err(retry),
        }
    }

    /// Drops a handle.
    pub fn forget(&self, state: &str) {
        self.lock().remove(state);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Parked>> {
        self.parked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
