//! Edits of a raw object that leave every other member as it was written.

use serde_json::value::RawValue;

use super::{EnvelopeError, Member, members};

/// One change of a member: replaced or added if there is a value, removed if not.
#[derive(Clone, Copy, Debug)]
pub struct Edit<'a> {
    /// The names from the object down to the member, for example `["_meta", "progressToken"]`.
    pub path: &'a [&'a str],
    /// The new value.
    pub value: Option<&'a RawValue>,
}

impl<'a> Edit<'a> {
    /// Sets the member at `path`; missing objects on the way are made.
    #[must_use]
    pub fn set(path: &'a [&'a str], value: &'a RawValue) -> Self {
        Self { path, value: Some(value) }
    }

    /// Removes the member at `path` if it is there.
    #[must_use]
    pub fn remove(path: &'a [&'a str]) -> Self {
        Self { path, value: None }
    }
}

/// Returns the object `raw` with `edits` spliced in.
///
/// Names and values of other members keep their bytes and their order (only the white space between
/// members goes); new members come last. Of several edits of one path the last counts.
///
/// # Errors
///
/// `NotObject` if `raw` is no object.
pub fn edit_object(raw: &RawValue, edits: &[Edit<'_>]) -> Result<Box<RawValue>, EnvelopeError> {
    let mut out = String::with_capacity(raw.get().len() + 64);
    let edits: Vec<_> = edits.iter().filter(|edit| !edit.path.is_empty()).collect();
    splice(&mut out, Some(raw), &edits, 0)?;
    RawValue::from_string(out).map_err(|error| EnvelopeError::json(&error))
}

/// Appends `"key":value` to an open object, with the comma it needs.
pub(crate) fn push_member(out: &mut String, key: &str, value: &str) {
    push_key(out, key);
    out.push_str(value);
}

/// Appends `"key":` to an open object, with the comma it needs.
pub(crate) fn push_key(out: &mut String, key: &str) {
    if !out.ends_with('{') {
        out.push(',');
    }
    out.push_str(key);
    out.push(':');
}

/// Writes the object with the edits that concern it; `level` names of their paths are done.
fn splice(
    out: &mut String,
    raw: Option<&RawValue>,
    edits: &[&Edit<'_>],
    level: usize,
) -> Result<(), EnvelopeError> {
    let members = raw.map(members).transpose()?.unwrap_or_default();
    out.push('{');
    for Member { name, key, value } in &members {
        let mine = concerning(edits, name, level);
        if mine.is_empty() {
            push_member(out, key.get(), value.get());
        } else {
            apply(out, key.get(), Some(value), &mine, level)?;
        }
    }
    for (index, edit) in edits.iter().enumerate() {
        let Some(name) = edit.path.get(level) else { continue };
        let done = members.iter().any(|member| member.name == *name)
            || edits.iter().take(index).any(|earlier| earlier.path.get(level) == Some(name));
        if !done {
            let key = serde_json::to_string(name).map_err(|error| EnvelopeError::json(&error))?;
            apply(out, &key, None, &concerning(edits, name, level), level)?;
        }
    }
    out.push('}');
    Ok(())
}

/// Writes one member as its edits want it.
fn apply(
    out: &mut String,
    key: &str,
    value: Option<&RawValue>,
    edits: &[&Edit<'_>],
    level: usize,
) -> Result<(), EnvelopeError> {
    if let Some(whole) = edits.iter().rfind(|edit| edit.path.len() == level + 1) {
        if let Some(value) = whole.value {
            push_member(out, key, value.get());
        }
        return Ok(());
    }
    let object = value.filter(|value| value.get().starts_with('{'));
    if object.is_none() && edits.iter().all(|edit| edit.value.is_none()) {
        if let Some(value) = value {
            push_member(out, key, value.get());
        }
        return Ok(());
    }
    push_key(out, key);
    splice(out, object, edits, level + 1)
}

fn concerning<'a, 'e>(edits: &[&'a Edit<'e>], name: &str, level: usize) -> Vec<&'a Edit<'e>> {
    edits.iter().copied().filter(|edit| edit.path.get(level) == Some(&name)).collect()
}
