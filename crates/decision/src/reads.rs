//! Which parts of the context a policy reads.

use std::collections::BTreeSet;

use serde_json::Value;

/// The paths below `context` that a policy reads or asks for with `has`.
///
/// A shorter path stands for everything below it, so that the answer errs towards "reads".
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reads(BTreeSet<Vec<String>>);

impl Reads {
    /// Collects the paths of a policy in Cedar's JSON format.
    pub(crate) fn of(policy: &Value) -> Self {
        let mut reads = Self::default();
        reads.walk(policy);
        reads
    }

    /// Says whether the policy looks at the context at all.
    pub(crate) fn any(&self) -> bool {
        !self.0.is_empty()
    }

    /// Says whether the policy may look at this path below `context`, at what holds it or at a part.
    pub(crate) fn touches(&self, path: &[&str]) -> bool {
        self.0.iter().any(|own| own.iter().zip(path).all(|(a, b)| a == b))
    }

    /// Adds what another policy reads.
    pub(crate) fn extend(&mut self, other: &Self) {
        self.0.extend(other.0.iter().cloned());
    }

    /// Returns the first of these arguments (JSON pointers, RFC 6901) that the policy reads.
    pub(crate) fn first_of<'p>(&self, pointers: &'p [String]) -> Option<&'p String> {
        pointers.iter().find(|pointer| {
            let names: Vec<String> = pointer
                .split('/')
                .skip(1)
                .map(|name| name.replace("~1", "/").replace("~0", "~"))
                .collect();
            let names = names.iter().map(String::as_str);
            self.touches(&std::iter::once("arguments").chain(names).collect::<Vec<_>>())
        })
    }

    fn walk(&mut self, expression: &Value) {
        if let Some(path) = context_path(expression) {
            self.0.insert(path);
            return;
        }
        match expression {
            Value::Array(items) => items.iter().for_each(|item| self.walk(item)),
            Value::Object(members) => members.values().for_each(|member| self.walk(member)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
}

/// Returns the path of `context`, `context.a`, `context.a has b` …
fn context_path(expression: &Value) -> Option<Vec<String>> {
    if expression.get("Var").and_then(Value::as_str) == Some("context") {
        return Some(Vec::new());
    }
    let access = expression.get(".").or_else(|| expression.get("has"))?;
    let mut path = context_path(access.get("left")?)?;
    path.push(access.get("attr")?.as_str()?.to_owned());
    Some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reads(condition: &str) -> Reads {
        let text = format!("permit(principal, action, resource) when {{ {condition} }};");
        Reads::of(&cedar_policy::Policy::parse(None, text).unwrap().to_json().unwrap())
    }

    #[test]
    fn finds_what_a_policy_reads() {
        for (condition, pointer, expected) in [
            ("context.arguments.amount > 5", "/amount", true),
            ("context.arguments.amount > 5", "/limit", false),
            ("context.arguments has limit", "/limit", true),
            ("context has arguments.at.lat", "/at/lat", true),
            ("context.arguments.at has lat", "/at/lon", false),
            ("context.arguments.at == {lat: 1}", "/at/lat", true),
            ("context.arguments[\"a/b\"] > 5", "/a~1b", true),
            ("(if true then context else context).arguments.amount > 5", "/amount", true),
            ("principal.environment == \"amount\"", "/amount", false),
            ("context.unrepresentable.contains(\"/amount\")", "/amount", false),
        ] {
            let found = reads(condition).first_of(&[pointer.to_owned()]).is_some();
            assert_eq!(found, expected, "{condition} reads {pointer}");
        }
        assert!(!reads("principal == resource").any());
        assert!(reads("context.at > context.at").any());
    }
}
