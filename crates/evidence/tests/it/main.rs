//! Questions to a real store: what `records`, `show`, `why` and `replay` answer.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on fails")]

mod folder;
mod package;
mod proof;
mod query;
mod replay;
mod timestamp;
mod world;
