//! What a writer does about the gateways that share its log (PostgreSQL): it tells them that it is alive, and
//! closes the streams of those that are gone.

use countersign_model::OutcomeStatus;
use tokio::time::timeout;

use super::{COMMIT_GIVEN_UP, Context, Place, Writer, closing_outcome, no_answer};
use crate::StoreError;
use crate::batch::{Batch, Head, Work};
use crate::db::Conn;
use crate::stream::{self, Lost};

impl Writer {
    /// Tells other gateways that this one is alive.
    pub(super) async fn beat(&mut self) {
        if matches!(self.context.place, Place::File(_)) {
            return;
        }
        if let Err(error) = self.reopen().await {
            tracing::error!(%error, "the database cannot be reached");
            return;
        }
        let Context { tenant, replica, .. } = &self.context;
        let Some((conn, head)) = &mut self.open else { return };
        let beat = stream::beat(conn, tenant, replica, head.epoch);
        match timeout(COMMIT_GIVEN_UP, beat).await {
            Ok(Ok(true)) => {}
            Ok(Ok(false)) => self.fail(StoreError::unavailable("another process took over")),
            Ok(Err(error)) => self.fail(error.into()),
            Err(_) => self.fail(no_answer()),
        }
    }

    /// Fences a gateway that is gone, and records that the outcomes of its open calls are unknown.
    pub(super) async fn close_stream(&mut self, lost: &Lost) -> Result<(), StoreError> {
        self.reopen().await?;
        let Some((mut conn, head)) = self.open.take() else {
            return Err(StoreError::unavailable("the database failed"));
        };
        match timeout(COMMIT_GIVEN_UP, self.transact_close(&mut conn, head, lost)).await {
            Ok(Ok(head)) => {
                self.open = Some((conn, head));
                Ok(())
            }
            Ok(Err(error)) => {
                conn.close_hard().await;
                Err(error)
            }
            Err(_) => {
                conn.close_hard().await;
                Err(no_answer())
            }
        }
    }

    async fn transact_close(
        &self,
        conn: &mut Conn,
        head: Head,
        lost: &Lost,
    ) -> Result<Head, StoreError> {
        let context = &self.context;
        conn.begin().await?;
        let Some((mut gap, calls)) = lost.take(conn, context).await? else {
            conn.roll_back().await?;
            return Ok(head);
        };
        let now = context.clock.now_ms();
        let mut batch = Batch::new(conn, &context.tenant, &context.replica, now, head);
        batch.run(&mut gap, Work::Record(Vec::new())).await??;
        for call in &calls {
            let (mut prepared, settlement) =
                closing_outcome(context, *call, OutcomeStatus::Unknown)?;
            batch.run(&mut prepared, Work::Outcome(settlement)).await??;
        }
        let head = batch.commit().await?;
        tracing::warn!(replica = lost.replica, calls = calls.len(), "a gateway is gone");
        Ok(head)
    }
}
