//! Names on the federated endpoint: `<server>__<tool>`, and back.
//!
//! Server names have no underscore, so the first `__` separates. Model APIs accept only
//! `[A-Za-z0-9_-]{1,64}`, so other characters become `-` and long names are cut; such a name gets a
//! hash of the true one at its end, by which it is found again.

use countersign_model::ServerName;
use sha2::{Digest, Sha256};

/// Length limit that model APIs put on tool names, in bytes.
pub const FEDERATED_NAME_BYTES_MAX: usize = 64;
/// Hexadecimal digits of the hash that a changed name ends with.
const HASH_DIGITS: usize = 8;
const SEPARATOR: &str = "__";

/// Makes the federated name of a tool or prompt.
#[must_use]
pub fn federate(server: &ServerName, name: &str) -> String {
    let plain = format!("{server}{SEPARATOR}{name}");
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if plain.len() <= FEDERATED_NAME_BYTES_MAX && plain.chars().all(fits) {
        return plain;
    }
    let hash = Sha256::digest(plain.as_bytes());
    let mut suffix: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    suffix.truncate(HASH_DIGITS);
    let room = FEDERATED_NAME_BYTES_MAX - HASH_DIGITS - 1;
    let cut: String = plain.chars().map(|c| if fits(c) { c } else { '-' }).take(room).collect();
    format!("{cut}-{suffix}")
}

/// Splits a federated name into its server and the rest, which may be a changed name.
#[must_use]
pub fn split(name: &str) -> Option<(ServerName, &str)> {
    let (server, rest) = name.split_once(SEPARATOR)?;
    Some((server.parse().ok()?, rest))
}

/// Finds the true name behind a federated one among the names that a server has.
#[must_use]
pub fn resolve<'a>(
    server: &ServerName,
    federated: &str,
    names: impl Iterator<Item = &'a str>,
) -> Option<&'a str> {
    names.into_iter().find(|name| federate(server, name) == federated)
}

/// Makes the federated URI of a resource: `<server>+<uri>` (`+` is legal in a scheme, RFC 3986,
/// section 3.1).
#[must_use]
pub fn federate_uri(server: &ServerName, uri: &str) -> String {
    format!("{server}+{uri}")
}

/// Splits a federated URI into its server and the server's own URI.
#[must_use]
pub fn split_uri(uri: &str) -> Option<(ServerName, &str)> {
    let (server, rest) = uri.split_once('+')?;
    Some((server.parse().ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn federated_names_come_back() {
        let server: ServerName = "crm-eu".parse().unwrap();
        let long = "x".repeat(100);
        for name in ["query", "a__b", "a.b", "größe", "with space", long.as_str()] {
            let federated = federate(&server, name);
            assert!(federated.len() <= FEDERATED_NAME_BYTES_MAX, "{federated}");
            assert!(
                federated.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-'),
                "{federated}"
            );
            let (found, _) = split(&federated).unwrap();
            assert_eq!(found, server);
            let names = ["other", name, "a-b"];
            assert_eq!(resolve(&server, &federated, names.into_iter()), Some(name));
        }
        assert_eq!(federate(&server, "query"), "crm-eu__query");
        assert!(split("query").is_none());
    }

    #[test]
    fn federated_uris_come_back() {
        let server: ServerName = "files".parse().unwrap();
        let uri = federate_uri(&server, "file:///a+b");
        assert_eq!(uri, "files+file:///a+b");
        assert_eq!(split_uri(&uri), Some((server, "file:///a+b")));
        assert_eq!(split_uri("file:///a"), None);
    }
}
