//! Questions to a real store: what `records`, `show`, `why` and `replay` answer.

mod folder;
mod proof;
mod query;
mod replay;
mod world;
