//! One governed call, from request to receipt. Read this file first.
//!
//! Every call takes the same steps in the same order; no step can be skipped, because each one needs
//! the value that the step before it returns:
//!
//! ```text
//! authenticate → parse → gather facts → decide → record intent → forward → record outcome
//!     I/O        pure       pure         pure        I/O           I/O         I/O
//! ```
//!
//! The first two steps happen at the edge ([`crate::identity`], [`crate::mcp`]): a [`CallRequest`]
//! can only be made with the [`Caller`] that authentication gives.
//!
//! INVARIANT: nothing reaches an upstream before its intent is durable. The types hold it:
//! `Session::call` takes a [`Permit`], and the only maker of a `Permit` takes the `Receipt` that
//! `Store::commit_intent` returns.
//!
//! INVARIANT: every error refuses the call. There is no path that fails open.
//!
//! INVARIANT: a caller that hangs up cannot stop a call between forward and outcome: `Pipeline::run`
//! runs in a task of its own, and a cancellation is a message to it.

use std::sync::Arc;

use countersign_decision::{Bundle, IdempotencyMode, decide};
use countersign_model::{
    AgentFacts, CallFacts, Decision, Draft, Facts, OutcomeStatus, Reason, ReasonCode, RecordId,
    ServerName, Stage, TenantId, TimestampMs, ToolName, Verdict,
};
use countersign_store::{
    Clock, Committed, IdSource, IdempotencyClaim, Intent, Outcome, Receipt, Store, StoredResult,
};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use tokio::time::Instant;

use crate::forward::{Call, Forwarded};
use crate::gate::Gate;
use crate::identity::Caller;
use crate::limits::{DERIVED_WINDOW_MS, IN_FLIGHT_WAIT};
use crate::mcp::Context;
use crate::mcp::link::Link;
use crate::permit::Permit;
use crate::records;
use crate::refusal::Refusal;
use crate::rules::{Current, Rules};
use crate::upstream::{Exchange, Request, Session};

/// One call, parsed.
#[derive(Debug)]
pub struct CallRequest {
    /// Who calls.
    pub caller: Caller,
    /// The MCP method.
    pub method: &'static str,
    /// The upstream server.
    pub server: ServerName,
    /// The tool of a `tools/call`.
    pub tool: Option<ToolName>,
    /// What another method works on.
    pub target: Option<String>,
    /// The arguments, parsed.
    pub arguments: Value,
    /// The parameters as they came, with the names that the upstream uses.
    pub params: Box<RawValue>,
    /// The gateway's session id, if the client has one.
    pub session: Option<String>,
    /// The caller's idempotency key.
    pub idempotency_key: Option<String>,
}

/// What a caller gets for a call that went through.
#[derive(Debug)]
pub struct Answer {
    /// The decision record.
    pub evaluation_id: RecordId,
    /// The result, byte for byte as the upstream sent it.
    pub result: Box<RawValue>,
    /// Whether the result is that of an earlier call with the same key.
    pub replayed: bool,
}

/// Decides, records and forwards calls.
pub struct Pipeline {
    /// The tenant whose log and policy this is.
    pub tenant: TenantId,
    /// All rules, swapped whole.
    pub rules: Arc<Rules>,
    /// The ledger.
    pub store: Store,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Fresh record ids.
    pub ids: IdSource,
    /// Whether calls go on at all.
    pub gate: Gate,
}

impl std::fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pipeline").field("tenant", &self.tenant).finish_non_exhaustive()
    }
}

impl Pipeline {
    /// Runs one call to its end.
    ///
    /// # Errors
    ///
    /// Returns the [`Refusal`] to send to the caller. Each one is recorded, but for
    /// [`Refusal::NotRecorded`], where recording is what failed.
    pub(crate) async fn run(
        &self,
        mut request: CallRequest,
        context: &Context,
        link: &Link,
    ) -> Result<Answer, Refusal> {
        let rules = self.rules.current(); // one version of the rules for the whole decision
        derive_key(&mut request, &rules.bundle, self.clock.now_ms());
        let (facts, decision) = self.judge(&rules, &request);
        drop(rules);

        if decision.verdict != Verdict::Allow {
            return Err(self.record_refusal(&request, &facts, &decision).await);
        }
        if self.gate.is_closed() {
            return Err(self.refuse_unanchored(&request, &facts, &decision).await);
        }
        let receipt = match self.record_intent(&request, &facts, &decision).await? {
            Intended::Recorded(receipt) => receipt,
            Intended::Replayed(stored) => return replay(&facts, stored),
        };

        let permit = Permit::from_receipt(receipt);
        let call = Call { pipeline: self, context, request: &request, facts: &facts, link };
        let forwarded = call.forward(permit).await;
        self.record_outcome(&facts, &forwarded).await?;
        answer(&facts, forwarded)
    }

    /// Gathers the facts of a request and decides on them.
    fn judge(&self, rules: &Current, request: &CallRequest) -> (Facts, Decision) {
        let facts = self.gather(request, rules.pin_mismatch(request));
        let decision = decide(&rules.bundle, &facts);
        (facts, decision)
    }

    /// Collects everything that the decision may look at.
    fn gather(&self, request: &CallRequest, pin_mismatch: bool) -> Facts {
        Facts {
            v: Facts::VERSION,
            evaluation_id: RecordId((self.ids)()),
            at: TimestampMs(self.clock.now_ms()),
            tenant: self.tenant.clone(),
            origin: "mcp".into(),
            agent: AgentFacts::from(request.caller.agent.as_ref()),
            principal: request.caller.principal.clone(),
            session: request.session.clone(),
            call: CallFacts {
                method: request.method.into(),
                server: request.server.clone(),
                tool: request.tool.clone(),
                target: request.target.clone(),
                arguments: request.arguments.clone(),
                keyed: request.idempotency_key.is_some(),
                pin_mismatch,
            },
        }
    }

    /// Makes a denial or a hold durable, and gives the refusal for the caller.
    async fn record_refusal(
        &self,
        request: &CallRequest,
        facts: &Facts,
        decision: &Decision,
    ) -> Refusal {
        let draft = records::decision(facts, decision, None);
        let draft = records::with_claims(draft, &request.caller.claims);
        match self.store.append(draft).await {
            Ok(_) => refused(request, facts, decision),
            Err(_) => not_recorded(facts, false),
        }
    }

    /// Makes the decision durable, and claims the idempotency key in the same transaction.
    ///
    /// A call whose key is taken by a running call waits for that one's end.
    async fn record_intent(
        &self,
        request: &CallRequest,
        facts: &Facts,
        decision: &Decision,
    ) -> Result<Intended, Refusal> {
        let deadline = Instant::now() + IN_FLIGHT_WAIT;
        loop {
            let intent = intent(request, facts, decision);
            let committed = self.store.commit_intent(intent).await;
            match committed.map_err(|_| not_recorded(facts, false))? {
                Committed::Recorded(receipt) => return Ok(Intended::Recorded(receipt)),
                Committed::Replayed(stored) => return Ok(Intended::Replayed(stored)),
                Committed::Refused { code, .. } => return Err(claim_refused(facts, code)),
                Committed::InFlight { evaluation_id } => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if !self.store.wait_outcome(evaluation_id, left).await {
                        return Err(self.refuse_in_flight(facts, decision).await);
                    }
                    if self.gate.is_closed() {
                        return Err(self.refuse_unanchored(request, facts, decision).await);
                    }
                }
            }
        }
    }

    /// Records that a repeat gave up waiting for the first call with its key.
    async fn refuse_in_flight(&self, facts: &Facts, decision: &Decision) -> Refusal {
        let code = ReasonCode::IDEMPOTENCY_IN_FLIGHT;
        let mut draft = records::decision(facts, decision, None);
        draft.public = records::claim_denial(&draft.public, &code);
        match self.store.append(draft).await {
            Ok(_) => claim_refused(facts, code),
            Err(_) => not_recorded(facts, false),
        }
    }

    /// Records that an allowed call is not made, because the log has not been anchored for too long.
    async fn refuse_unanchored(
        &self,
        request: &CallRequest,
        facts: &Facts,
        decision: &Decision,
    ) -> Refusal {
        let draft = records::decision(facts, decision, None);
        let mut draft = records::with_claims(draft, &request.caller.claims);
        draft.public = records::claim_denial(&draft.public, &ReasonCode::AUDIT_UNAVAILABLE);
        match self.store.append(draft).await {
            Ok(_) => Refusal::Unanchored { evaluation_id: facts.evaluation_id },
            Err(_) => not_recorded(facts, false),
        }
    }

    /// Makes the outcome durable; until then no answer leaves.
    async fn record_outcome(&self, facts: &Facts, forwarded: &Forwarded) -> Result<(), Refusal> {
        let status = forwarded.status();
        let recorded = self.settle_with(facts, status, forwarded.detail(), forwarded.answer());
        let sent = status != OutcomeStatus::NotForwarded;
        recorded.await.map_err(|_| not_recorded(facts, sent))
    }

    async fn settle_with(
        &self,
        facts: &Facts,
        status: OutcomeStatus,
        detail: Option<&str>,
        answer: Option<&RawValue>,
    ) -> Result<(), NotRecorded> {
        let id = RecordId((self.ids)());
        let duration_ms = self.clock.now_ms().saturating_sub(facts.at.0);
        let draft = records::outcome(id, facts, status, detail, answer, duration_ms);
        let result = answer.filter(|_| facts.call.keyed).map(|raw| raw.get().to_owned());
        let outcome = Outcome { evaluation_id: facts.evaluation_id, draft, status, result };
        self.store.commit_outcome(outcome).await.map(drop).map_err(|_| NotRecorded)
    }

    /// Makes the outcome of something other than a call durable: of a question, of a subscription.
    pub(crate) async fn settle(
        &self,
        facts: &Facts,
        status: OutcomeStatus,
        answer: Option<&RawValue>,
    ) -> Result<(), NotRecorded> {
        self.settle_with(facts, status, None, answer).await
    }

    /// Makes an allow-decision durable that claims no key.
    ///
    /// # Errors
    ///
    /// Fails if it could not be recorded.
    pub(crate) async fn commit_unclaimed(&self, draft: Draft) -> Result<Receipt, NotRecorded> {
        let denial = Box::new(|code: &ReasonCode| records::claim_denial(&Map::new(), code));
        let intent = Intent { draft, denial, idempotency: None };
        match self.store.commit_intent(intent).await {
            Ok(Committed::Recorded(receipt)) => Ok(receipt),
            _ => Err(NotRecorded),
        }
    }

    /// Decides again before the server gets the client's answers, and permits the next round.
    ///
    /// # Errors
    ///
    /// Says why the call ends here.
    pub(crate) async fn next_round(
        &self,
        request: &CallRequest,
        first: &Facts,
    ) -> Result<Permit, String> {
        let (facts, decision) = self.judge(&self.rules.current(), request);
        let mut draft = records::decision(&facts, &decision, Some(first.evaluation_id));
        let unanchored = decision.verdict == Verdict::Allow && self.gate.is_closed();
        if unanchored {
            draft.public = records::claim_denial(&draft.public, &ReasonCode::AUDIT_UNAVAILABLE);
        }
        if unanchored || decision.verdict != Verdict::Allow {
            let recorded = self.store.append(draft).await;
            return Err(match recorded {
                Ok(_) if unanchored => "the log is not anchored, so there is no next round".into(),
                Ok(_) => "policy does not allow the next round".into(),
                Err(_) => "the decision on the next round could not be recorded".into(),
            });
        }
        let receipt = self.commit_unclaimed(draft.with("round", true)).await;
        let receipt = receipt.map_err(|_| "the next round could not be recorded".to_owned())?;
        Ok(Permit::from_receipt(receipt))
    }

    /// Tells whether policy allows a request, and records it if not.
    pub(crate) async fn would_allow(&self, request: &CallRequest) -> bool {
        let (facts, decision) = self.judge(&self.rules.current(), request);
        if decision.verdict == Verdict::Allow {
            return true;
        }
        self.record_refusal(request, &facts, &decision).await;
        false
    }

    /// Opens a stream of messages from a server: decided and recorded like a call, and over, for the
    /// ledger, when it is open.
    pub(crate) async fn open(
        &self,
        request: &CallRequest,
        session: &Arc<Session>,
    ) -> Result<Exchange, Refusal> {
        let (facts, decision) = self.judge(&self.rules.current(), request);
        if decision.verdict != Verdict::Allow {
            return Err(self.record_refusal(request, &facts, &decision).await);
        }
        if self.gate.is_closed() {
            return Err(self.refuse_unanchored(request, &facts, &decision).await);
        }
        let draft = records::decision(&facts, &decision, None);
        let receipt =
            self.commit_unclaimed(draft).await.map_err(|_| not_recorded(&facts, false))?;
        let upstream = Request::new(request.method, request.params.clone());
        let opened = session.call(Permit::from_receipt(receipt), upstream).await;
        let status =
            if opened.is_ok() { OutcomeStatus::Executed } else { OutcomeStatus::NotForwarded };
        self.settle(&facts, status, None).await.map_err(|_| not_recorded(&facts, true))?;
        opened.map_err(|error| Refusal::Upstream {
            evaluation_id: facts.evaluation_id,
            sent: false,
            detail: error.to_string(),
        })
    }
}

/// Something could not be written to the ledger.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NotRecorded;

/// What became of an intent that was not refused.
enum Intended {
    /// It is durable; the call may go on if its verdict says so.
    Recorded(Receipt),
    /// The call was made before, with the same key and arguments.
    Replayed(StoredResult),
}

/// Drafts the intent of an allowed call, with the claim of its key if it has one.
fn intent(request: &CallRequest, facts: &Facts, decision: &Decision) -> Intent {
    let draft = records::decision(facts, decision, None);
    let draft = records::with_claims(draft, &request.caller.claims);
    let idempotency = request.idempotency_key.as_ref().map(|key| IdempotencyClaim {
        agent: request.caller.agent.id,
        key: key.clone(),
        digest: countersign_decision::arguments_digest(&action(request), &request.arguments),
    });
    // Without a key there is nothing to lose.
    let public = if idempotency.is_some() { draft.public.clone() } else { Map::new() };
    let denial = Box::new(move |code: &ReasonCode| records::claim_denial(&public, code));
    Intent { draft, denial, idempotency }
}

/// Gives a call without a key one that is made of the call itself, where the tool's manifest says so:
/// the same agent, principal, tool and arguments in the same minute are the same call.
fn derive_key(request: &mut CallRequest, bundle: &Bundle, now_ms: i64) {
    let tool = request.tool.as_ref().and_then(|tool| bundle.tool(tool));
    let derived = tool.is_some_and(|tool| tool.idempotency == IdempotencyMode::Derived);
    if request.idempotency_key.is_some() || !derived {
        return;
    }
    let call = format!("{} {}", action(request), request.caller.principal.id);
    let digest = countersign_decision::arguments_digest(&call, &request.arguments);
    let digest = uuid::Uuid::new_v8(digest.first_chunk().copied().unwrap_or_default());
    let minute = now_ms.div_euclid(DERIVED_WINDOW_MS);
    request.idempotency_key = Some(format!("derived:{digest}:{minute}"));
}

/// Names what a call does, for the digest that an idempotency key is bound to.
fn action(request: &CallRequest) -> String {
    match (&request.tool, &request.target) {
        (Some(tool), _) => tool.to_string(),
        (None, Some(target)) => format!("{} {} {target}", request.method, request.server),
        (None, None) => format!("{} {}", request.method, request.server),
    }
}

fn not_recorded(facts: &Facts, forwarded: bool) -> Refusal {
    Refusal::NotRecorded { evaluation_id: facts.evaluation_id, forwarded }
}

/// Gives the refusal of a decision that is not an allow.
///
/// A tool that the agent may not see is answered like one that does not exist.
fn refused(request: &CallRequest, facts: &Facts, decision: &Decision) -> Refusal {
    let first = decision.reasons.first();
    let hidden = first
        .is_some_and(|reason| reason.code == ReasonCode::NOT_ALLOWLISTED && reason.rule.is_none());
    match request.tool {
        Some(_) if hidden => Refusal::Unknown { evaluation_id: facts.evaluation_id, what: "tool" },
        _ => Refusal::of(facts.evaluation_id, decision),
    }
}

/// Gives the refusal of a call whose idempotency key is taken.
fn claim_refused(facts: &Facts, code: ReasonCode) -> Refusal {
    let detail = if code == ReasonCode::IDEMPOTENCY_PAYLOAD_MISMATCH {
        "This idempotency key was used before with other arguments."
    } else if code == ReasonCode::IDEMPOTENCY_OUTCOME_UNKNOWN {
        "The first call with this key has an unknown outcome; an operator must reconcile it first."
    } else if code == ReasonCode::IDEMPOTENCY_RESULT_GONE {
        "The first call with this key was executed; its result is no longer kept."
    } else {
        "The first call with this key is still running."
    };
    let reason = Reason { stage: Stage::Idempotency, code, rule: None, detail: detail.to_owned() };
    Refusal::Decided { evaluation_id: facts.evaluation_id, verdict: Verdict::Deny, reason }
}

/// Gives the stored answer of the first call with the same key.
fn replay(facts: &Facts, stored: StoredResult) -> Result<Answer, Refusal> {
    let evaluation_id = stored.evaluation_id;
    let Some(raw) = stored.result.and_then(|text| RawValue::from_string(text).ok()) else {
        return Err(claim_refused(facts, ReasonCode::IDEMPOTENCY_RESULT_GONE));
    };
    if stored.status == OutcomeStatus::Failed {
        return Err(Refusal::UpstreamError { evaluation_id, error: raw });
    }
    Ok(Answer { evaluation_id, result: raw, replayed: true })
}

/// Turns what came back from the upstream into the caller's answer.
fn answer(facts: &Facts, forwarded: Forwarded) -> Result<Answer, Refusal> {
    let evaluation_id = facts.evaluation_id;
    match forwarded {
        Forwarded::Result(result) => Ok(Answer { evaluation_id, result, replayed: false }),
        Forwarded::Error(error) => Err(Refusal::UpstreamError { evaluation_id, error }),
        Forwarded::NotSent(detail) => Err(Refusal::Upstream { evaluation_id, sent: false, detail }),
        Forwarded::Lost(detail) => Err(Refusal::Upstream { evaluation_id, sent: true, detail }),
    }
}
