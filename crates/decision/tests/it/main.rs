//! Tests of whole bundles.

mod bundles;
mod decisions;
mod loading;
mod slicing;
mod support;
