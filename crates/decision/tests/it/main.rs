//! Tests of whole bundles.

#[cfg(test)]
mod bundles;
#[cfg(test)]
mod decisions;
#[cfg(test)]
mod loading;
#[cfg(test)]
mod slicing;
#[cfg(test)]
mod support;
