use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks a mutex; a panic in another test task does not spread.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
