//! One record as it stands in the log.

use std::collections::BTreeMap;

use countersign_ledger::{Disclosure, Hash, leaf_hash};
use serde_json::{Map, Value};

use crate::EvidenceError;

/// A leaf of the log: its bytes, and the fields that they say.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    index: u64,
    body: Vec<u8>,
    fields: Map<String, Value>,
}

impl Record {
    /// Reads the leaf with position `index`.
    ///
    /// # Errors
    /// [`EvidenceError::NotARecord`] if the bytes are no JSON object.
    pub fn parse(index: u64, body: Vec<u8>) -> Result<Self, EvidenceError> {
        let fields = serde_json::from_slice(&body)
            .map_err(|error| EvidenceError::NotARecord { index, reason: error.to_string() })?;
        Ok(Self { index, body, fields })
    }

    /// Returns the position in the log, from 0.
    #[must_use]
    pub fn index(&self) -> u64 {
        self.index
    }

    /// Returns the leaf's bytes, as they are hashed.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// Returns the hash of the leaf.
    #[must_use]
    pub fn leaf_hash(&self) -> Hash {
        leaf_hash(&self.body)
    }

    /// Returns all public fields.
    #[must_use]
    pub fn fields(&self) -> &Map<String, Value> {
        &self.fields
    }

    /// Returns a public field that is text.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        self.fields.get(name)?.as_str()
    }

    /// Returns a public field that is an integer.
    #[must_use]
    pub fn integer(&self, name: &str) -> Option<i64> {
        self.fields.get(name)?.as_i64()
    }

    /// Returns the texts of a public field that is a list.
    #[must_use]
    pub fn list(&self, name: &str) -> Vec<&str> {
        let list = self.fields.get(name).and_then(Value::as_array);
        list.into_iter().flatten().filter_map(Value::as_str).collect()
    }

    /// Shows the record as one JSON object: its leaf, and where that stands in the log.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut fields = self.fields.clone();
        fields.insert("at".to_owned(), crate::time::utc(self.time_ms()).into());
        fields.insert("leaf_index".to_owned(), self.index.into());
        fields.insert("leaf_hash".to_owned(), self.leaf_hash().to_base64().into());
        Value::Object(fields)
    }

    /// Returns the record's id.
    #[must_use]
    pub fn id(&self) -> &str {
        self.text("record_id").unwrap_or_default()
    }

    /// Returns the record's kind.
    #[must_use]
    pub fn kind(&self) -> &str {
        self.text("kind").unwrap_or_default()
    }

    /// Returns the time of the record, in Unix milliseconds.
    #[must_use]
    pub fn time_ms(&self) -> i64 {
        let time = self.fields.get("time").and_then(|time| time.get("ms"));
        time.and_then(Value::as_i64).unwrap_or_default()
    }

    /// Returns the id of the call that the record is about: an outcome's decision, else the record itself.
    #[must_use]
    pub fn evaluation_id(&self) -> &str {
        match self.kind() {
            "outcome" => self.text("parent").unwrap_or_default(),
            _ => self.id(),
        }
    }

    /// Returns, in a word, what the record says: a verdict, what came of a call, what changed.
    #[must_use]
    pub fn result(&self) -> &str {
        let field = match self.kind() {
            "decision" => "decision",
            "outcome" => "outcome",
            "auth" | "access" | "check" => "result",
            "detection" => "type",
            "gap" => "gap",
            "erasure" => "phase",
            "change" if self.fields.contains_key("event") => "event",
            "change" | "legal_hold" => "action",
            _ => return "",
        };
        self.text(field).unwrap_or_default()
    }
}

impl From<countersign_store::Record> for Record {
    fn from(record: countersign_store::Record) -> Self {
        let fields = if let Value::Object(fields) = record.leaf { fields } else { Map::new() };
        Self { index: record.index.0, body: record.body, fields }
    }
}

/// A record with those of its private fields that can still be opened.
#[derive(Clone, Debug, PartialEq)]
pub struct Opened {
    /// The record.
    pub record: Record,
    /// The opened disclosures.
    pub disclosures: Vec<Disclosure>,
    /// The private values, by name; those that are stored apart are whole.
    pub private: BTreeMap<String, Value>,
    /// Why private fields stay closed, if they do.
    pub closed: Option<String>,
}

impl Opened {
    /// Makes a record of which nothing is opened.
    #[must_use]
    pub fn public(record: Record) -> Self {
        Self { record, disclosures: Vec::new(), private: BTreeMap::new(), closed: None }
    }

    /// Returns a private value.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&Value> {
        self.private.get(name)
    }

    /// Returns the arguments of the call, put together from their fields; `None` if none is open.
    #[must_use]
    pub fn arguments(&self) -> Option<Value> {
        if let Some(whole) = self.value("arguments") {
            return Some(whole.clone());
        }
        let members: Map<String, Value> = self
            .private
            .iter()
            .filter_map(|(name, value)| {
                Some((name.strip_prefix("arguments.")?.to_owned(), value.clone()))
            })
            .collect();
        if !members.is_empty() {
            return Some(Value::Object(members));
        }
        self.value("facts")?.pointer("/call/arguments").cloned()
    }

    /// Returns the facts of the decision, with the arguments that are sealed beside them.
    #[must_use]
    pub fn facts(&self) -> Option<Value> {
        let mut facts = self.value("facts")?.clone();
        if let Some(call) = facts.get_mut("call").and_then(Value::as_object_mut)
            && !call.contains_key("arguments")
            && let Some(arguments) = self.arguments()
        {
            call.insert("arguments".to_owned(), arguments);
        }
        Some(facts)
    }

    /// Returns who the principal is, if that is open: text, or the field `id` of an object.
    #[must_use]
    pub fn principal(&self) -> Option<&str> {
        let principal = self.value("principal")?;
        principal.as_str().or_else(|| principal.get("id")?.as_str())
    }

    /// Closes every private field that is not named.
    #[must_use]
    pub fn only(mut self, names: &[String]) -> Self {
        let kept = |name: &str| names.iter().any(|kept| kept == name);
        self.disclosures.retain(|disclosure| disclosure.name().is_some_and(kept));
        self.private.retain(|name, _| kept(name));
        self
    }

    /// Returns how many digests of the leaf no opened field accounts for.
    #[must_use]
    pub fn closed_fields(&self) -> usize {
        self.record.list("_sd").len().saturating_sub(self.disclosures.len())
    }
}
