//! The size of a run, from the environment, and what it says in the end.

use std::fmt::Display;
use std::str::FromStr;

/// Reads a number that makes a run larger or repeats it.
#[expect(clippy::disallowed_methods, reason = "the size of a run is chosen by who starts it")]
pub(crate) fn setting<T: FromStr<Err: Display>>(name: &str, default: T) -> T {
    let Ok(text) = std::env::var(name) else { return default };
    text.parse().unwrap_or_else(|error| panic!("{name}=`{text}`: {error}"))
}

/// Says what a run covered; unlike `println!` it is shown for tests that pass, too.
pub(crate) fn say(text: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "{text}");
}
