//! One JSON-RPC message as bytes: what the gateway must know is read, the rest stays raw.
//!
//! Audit needs the bytes that came and the members nobody modelled, so nothing here turns a message
//! into typed models. Source: JSON-RPC 2.0 and MCP 2025-11-25 and 2026-07-28, "Messages".
//!
//! Out of scope: what a method means, validation of arguments against a schema.

mod edit;
mod scan;

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

pub use edit::{Edit, edit_object};
pub(crate) use edit::{push_key, push_member};

/// Size limit of one message from a client, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 4 << 20;
/// Limit of nested arrays and objects in one message.
pub const MESSAGE_DEPTH_MAX: usize = 64;
/// Size limit of a request id as written, in bytes.
pub const ID_BYTES_MAX: usize = 256;

/// Says why a message was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EnvelopeError {
    /// The message is larger than its limit.
    #[error("the message has more than {bytes_max} bytes")]
    TooLarge {
        /// The limit in bytes.
        bytes_max: usize,
    },
    /// The message is no UTF-8 text.
    #[error("the message is not valid UTF-8")]
    NotUtf8,
    /// The message is no JSON text (RFC 8259).
    #[error("the message is not valid JSON: {reason}")]
    NotJson {
        /// What the parser found.
        reason: String,
    },
    /// Arrays and objects are nested too deeply.
    #[error("the message is nested more than {MESSAGE_DEPTH_MAX} levels deep")]
    TooDeep,
    /// A string escapes half of a surrogate pair.
    #[error("a string has a lone surrogate")]
    LoneSurrogate,
    /// The message is an array of messages.
    #[error("batches are not accepted")]
    Batch,
    /// A value that must be an object is none.
    #[error("`{what}` must be an object")]
    NotObject {
        /// Which value.
        what: &'static str,
    },
    /// Two members of one object have the same name.
    #[error("`{name}` stands twice in `{place}`")]
    Duplicate {
        /// The object.
        place: &'static str,
        /// The repeated name.
        name: String,
    },
    /// `jsonrpc` is missing or not `"2.0"`.
    #[error("`jsonrpc` must be \"2.0\"")]
    Version,
    /// The id is neither a string nor an integer.
    #[error("`id` must be a string or an integer of at most {ID_BYTES_MAX} bytes")]
    Id,
    /// The members do not make a request, a notification or a response.
    #[error("the message is no {expected}")]
    Shape {
        /// What was expected.
        expected: &'static str,
    },
}

impl EnvelopeError {
    /// Returns the JSON-RPC error code: `-32700` if nothing could be read, else `-32600`.
    #[must_use]
    pub fn code(&self) -> i64 {
        match self {
            Self::NotUtf8 | Self::NotJson { .. } | Self::LoneSurrogate | Self::TooDeep => -32700,
            Self::TooLarge { .. }
            | Self::Batch
            | Self::NotObject { .. }
            | Self::Duplicate { .. }
            | Self::Version
            | Self::Id
            | Self::Shape { .. } => -32600,
        }
    }

    fn json(error: &serde_json::Error) -> Self {
        Self::NotJson { reason: error.to_string() }
    }
}

/// What a message is by its members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageKind {
    /// `method` and `id`: expects an answer.
    Request,
    /// `method` without `id`.
    Notification,
    /// `id` and one of `result` and `error`.
    Response,
}

/// One JSON-RPC message; what the gateway does not need stays as the bytes that came.
#[derive(Clone, Debug, Default)]
pub struct Envelope<'a> {
    /// The id as written: a string or an integer.
    pub id: Option<&'a RawValue>,
    /// The method, unescaped.
    pub method: Option<Cow<'a, str>>,
    /// The parameters: always an object.
    pub params: Option<&'a RawValue>,
    /// The result of a response.
    pub result: Option<&'a RawValue>,
    /// The error of a response.
    pub error: Option<&'a RawValue>,
}

impl<'a> Envelope<'a> {
    /// Parses one message from a client.
    ///
    /// # Errors
    ///
    /// Refuses everything that two parsers could read as two messages: see [`EnvelopeError`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, EnvelopeError> {
        let text = checked_text(bytes, MESSAGE_BYTES_MAX)?;
        scan::depth_and_surrogates(text, MESSAGE_DEPTH_MAX)?;
        let envelope = Self::read(text)?;
        if let Some(id) = envelope.id {
            check_id(id)?;
        }
        envelope.check_params()?;
        envelope.kind_checked()?;
        Ok(envelope)
    }

    /// Parses one message from an upstream server of at most `bytes_max` bytes.
    ///
    /// More lenient than [`Envelope::parse`], because what was executed must be recorded: an error
    /// may have a null id (it is dropped), and strings are left to the scan of the result.
    ///
    /// # Errors
    ///
    /// Refuses what is no JSON-RPC message or has a repeated top-level member.
    pub fn parse_from_server(bytes: &'a [u8], bytes_max: usize) -> Result<Self, EnvelopeError> {
        let text = checked_text(bytes, bytes_max)?;
        let mut envelope = Self::read(text)?;
        if envelope.id.is_some_and(|id| id.get() == "null") && envelope.error.is_some() {
            envelope.id = None;
        } else if let Some(id) = envelope.id {
            check_id(id)?;
        }
        if envelope.method.is_some() || envelope.error.is_none() {
            envelope.kind_checked()?;
        }
        Ok(envelope)
    }

    /// Returns what the message is.
    #[must_use]
    pub fn kind(&self) -> MessageKind {
        match (&self.method, self.id) {
            (Some(_), Some(_)) => MessageKind::Request,
            (Some(_), None) => MessageKind::Notification,
            (None, _) => MessageKind::Response,
        }
    }

    fn read(text: &'a str) -> Result<Self, EnvelopeError> {
        if text.trim_start().starts_with('[') {
            return Err(EnvelopeError::Batch);
        }
        let members = parse_object(text, "message")?;
        refuse_duplicates(&members, "message")?;
        let mut envelope = Self::default();
        let mut version = false;
        for Member { name, value, .. } in members {
            match &*name {
                "jsonrpc" => version = value.get() == "\"2.0\"",
                "id" => envelope.id = Some(value),
                "method" => envelope.method = Some(string(value)?),
                "params" => envelope.params = Some(value),
                "result" => envelope.result = Some(value),
                "error" => envelope.error = Some(value),
                _ => {}
            }
        }
        if version { Ok(envelope) } else { Err(EnvelopeError::Version) }
    }

    fn check_params(&self) -> Result<(), EnvelopeError> {
        let Some(params) = self.params else { return Ok(()) };
        let members = parse_object(params.get(), "params")?;
        refuse_duplicates(&members, "params")?;
        let arguments = members.iter().find(|m| m.name == "arguments").map(|m| m.value);
        if let Some(arguments) = arguments.filter(|value| value.get().starts_with('{')) {
            refuse_duplicates(&parse_object(arguments.get(), "arguments")?, "arguments")?;
        }
        Ok(())
    }

    fn kind_checked(&self) -> Result<MessageKind, EnvelopeError> {
        let answers = usize::from(self.result.is_some()) + usize::from(self.error.is_some());
        let whole = match (&self.method, self.id) {
            (Some(_), _) => answers == 0,
            (None, Some(_)) => answers == 1,
            (None, None) => false,
        };
        if whole {
            Ok(self.kind())
        } else {
            Err(EnvelopeError::Shape { expected: "request, notification or response" })
        }
    }
}

/// One member of an object: its decoded name and both sides as written.
#[derive(Clone, Debug)]
pub struct Member<'a> {
    /// The name, unescaped.
    pub name: Cow<'a, str>,
    /// The name as written, with its quotes.
    pub key: &'a RawValue,
    /// The value as written.
    pub value: &'a RawValue,
}

/// Returns the members of the object `raw` in their order.
///
/// # Errors
///
/// `NotObject` if it is something else. Repeated names are returned as they stand.
pub fn members(raw: &RawValue) -> Result<Vec<Member<'_>>, EnvelopeError> {
    parse_object(raw.get(), "value")
}

/// Returns the value of the first member `name` of the object `raw`, if there is one.
#[must_use]
pub fn member<'a>(raw: &'a RawValue, name: &str) -> Option<&'a RawValue> {
    members(raw).ok()?.into_iter().find(|m| m.name == name).map(|m| m.value)
}

/// Returns the unescaped text of a JSON string.
///
/// # Errors
///
/// `Shape` if `raw` is no string.
pub fn string(raw: &RawValue) -> Result<Cow<'_, str>, EnvelopeError> {
    let inner = raw.get().strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    match inner {
        Some(inner) if !inner.contains('\\') => Ok(Cow::Borrowed(inner)),
        Some(_) => serde_json::from_str(raw.get())
            .map(Cow::Owned)
            .map_err(|_| EnvelopeError::Shape { expected: "string" }),
        None => Err(EnvelopeError::Shape { expected: "string" }),
    }
}

fn checked_text(bytes: &[u8], bytes_max: usize) -> Result<&str, EnvelopeError> {
    if bytes.len() > bytes_max {
        return Err(EnvelopeError::TooLarge { bytes_max });
    }
    std::str::from_utf8(bytes).map_err(|_| EnvelopeError::NotUtf8)
}

fn check_id(id: &RawValue) -> Result<(), EnvelopeError> {
    let text = id.get();
    let digits = text.strip_prefix('-').unwrap_or(text);
    let integer = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    if text.len() <= ID_BYTES_MAX && (integer || text.starts_with('"')) {
        Ok(())
    } else {
        Err(EnvelopeError::Id)
    }
}

fn parse_object<'a>(text: &'a str, what: &'static str) -> Result<Vec<Member<'a>>, EnvelopeError> {
    if !text.trim_start().starts_with('{') {
        return match serde_json::from_str::<&RawValue>(text) {
            Ok(_) => Err(EnvelopeError::NotObject { what }),
            Err(error) => Err(EnvelopeError::json(&error)),
        };
    }
    let object: Object<'a> =
        serde_json::from_str(text).map_err(|error| EnvelopeError::json(&error))?;
    object.0.into_iter().map(|(key, value)| Ok(Member { name: string(key)?, key, value })).collect()
}

/// How many members are compared pairwise before a set is built.
const PAIRWISE_MAX: usize = 12;

fn refuse_duplicates(members: &[Member<'_>], place: &'static str) -> Result<(), EnvelopeError> {
    let mut seen = HashSet::new();
    for (index, Member { name, .. }) in members.iter().enumerate() {
        let twice = if members.len() <= PAIRWISE_MAX {
            members.iter().take(index).any(|earlier| earlier.name == *name)
        } else {
            !seen.insert(&**name)
        };
        if twice {
            return Err(EnvelopeError::Duplicate { place, name: name.clone().into_owned() });
        }
    }
    Ok(())
}

/// The members of an object in order, both sides borrowed from the text.
struct Object<'a>(Vec<(&'a RawValue, &'a RawValue)>);

impl<'de> Deserialize<'de> for Object<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;

        impl<'de> Visitor<'de> for Members {
            type Value = Object<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::with_capacity(8);
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Object(members))
            }
        }

        deserializer.deserialize_map(Members)
    }
}

#[cfg(test)]
mod tests;
