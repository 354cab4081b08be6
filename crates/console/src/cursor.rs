//! Where a walk through the records goes on.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use countersign_ledger::hash::sha256;

use crate::answer::ApiError;

/// Digits of the query's hash that a cursor has.
const BINDING_CHARS: usize = 16;

/// A place in the answer to one query, as of one size of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cursor {
    /// How many records the log had at the first page: later ones are not part of the walk.
    pub(crate) tree_size: u64,
    /// The page's records stand before this position.
    pub(crate) before: u64,
}

impl Cursor {
    /// Begins a walk.
    pub(crate) fn first(tree_size: u64) -> Self {
        Self { tree_size, before: tree_size }
    }

    /// Writes the cursor, bound to its query: with another one it is refused.
    pub(crate) fn write(self, query: &str) -> String {
        let Self { tree_size, before } = self;
        URL_SAFE_NO_PAD.encode(format!("{tree_size}.{before}.{}", binding(query)))
    }

    /// Reads a cursor; `size` is how many records the log has now.
    ///
    /// # Errors
    /// Names the parameter if the cursor is not one, or is one of another query.
    pub(crate) fn read(text: &str, query: &str, size: u64) -> Result<Self, ApiError> {
        let bad = |message: &str| ApiError::parameter("cursor", message);
        let no_cursor = || bad("it is no cursor of this server");
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| no_cursor())?;
        let text = String::from_utf8(bytes).map_err(|_| no_cursor())?;
        let mut parts = text.split('.');
        let mut number = || parts.next()?.parse::<u64>().ok();
        let (tree_size, before) = number().zip(number()).ok_or_else(no_cursor)?;
        let bound = parts.next().filter(|_| before <= tree_size && tree_size <= size);
        match bound {
            Some(bound) if bound == binding(query) => Ok(Self { tree_size, before }),
            Some(_) => Err(bad("it belongs to another query; keep all parameters but `limit`")),
            None => Err(no_cursor()),
        }
    }
}

fn binding(query: &str) -> String {
    sha256(query.as_bytes()).to_string().chars().take(BINDING_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_fits_its_query_and_log_alone() {
        let cursor = Cursor { tree_size: 2_501, before: 1_501 };
        let text = cursor.write("kind=decision");
        assert_eq!(Cursor::read(&text, "kind=decision", 2_600).unwrap(), cursor);
        for (text, query, size) in [
            (text.as_str(), "kind=auth", 2_600),
            (text.as_str(), "kind=decision", 2_500),
            ("", "kind=decision", 2_600),
            ("MTAuMjA", "kind=decision", 2_600),
            ("%", "kind=decision", 2_600),
        ] {
            assert!(Cursor::read(text, query, size).is_err(), "{text} {query} {size}");
        }
        let behind = Cursor { tree_size: 5, before: 6 }.write("");
        assert!(Cursor::read(&behind, "", 10).is_err());
    }
}
