//! Hears what PostgreSQL warns of.
//!
//! A commit that waits for a standby and is cancelled ends like any other, but for a warning: it is durable
//! on its own server and lost with it. The driver hands warnings to nobody but the program's subscriber of
//! traces, as events with the target `sqlx::postgres::notice`, and only if that target is enabled there.

use std::cell::Cell;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{Filtered, Targets};
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use super::Conn;
use crate::StoreError;

/// The driver's target for what a server says beside its answers.
const TARGET: &str = "sqlx::postgres::notice";

tokio::task_local! {
    /// Whether the server warned during the work that is listened to.
    static HEARD: Cell<bool>;
}

/// The layer that hears warnings.
#[derive(Clone, Copy, Debug, Default)]
pub struct CommitWarnings(());

impl CommitWarnings {
    /// Returns the layer for the program's subscriber; without it no store in PostgreSQL can be written.
    #[must_use]
    pub fn layer<S>() -> Filtered<Self, Targets, S>
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        Self::default().with_filter(Targets::new().with_target(TARGET, Level::WARN))
    }
}

impl<S: Subscriber> Layer<S> for CommitWarnings {
    fn on_event(&self, _event: &Event<'_>, _context: Context<'_, S>) {
        // The driver speaks while it is polled, so in the task whose connection it is.
        let _ = HEARD.try_with(|heard| heard.set(true));
    }
}

/// Does some work on one connection that ends with a commit; a warning meanwhile is an error.
pub(crate) async fn refusing<T>(
    work: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    match listening(work).await {
        (Ok(_), true) => Err(sqlx::Error::Protocol("the database warned during a commit".into())),
        (done, _) => done,
    }
}

/// Does some work on one connection; returns also whether the server warned meanwhile.
async fn listening<T>(work: impl Future<Output = T>) -> (T, bool) {
    let heard = async {
        let done = work.await;
        (done, HEARD.with(Cell::get))
    };
    HEARD.scope(Cell::new(false), heard).await
}

/// Checks that a warning of this connection is heard.
pub(crate) async fn check(conn: &mut Conn) -> Result<(), StoreError> {
    let warn = conn.execute("DO $$ BEGIN RAISE WARNING 'countersign listens'; END $$", &[]);
    let (done, heard) = listening(warn).await;
    done?;
    if heard {
        return Ok(());
    }
    let (expected, found) = ("heard".to_owned(), "not heard".to_owned());
    Err(StoreError::Setting { name: "warnings", expected, found })
}
