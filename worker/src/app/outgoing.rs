//! Sends a call inside its trace and the middleware.

use bytes::Bytes;
use uuid::Uuid;

use super::{App, AsyncResult};
use crate::canvas::SendOptions;
use crate::error::Result;
use crate::middleware::Outgoing;
use crate::task::TaskOptions;
use crate::traces::SendTrace;

impl App {
    /// Sends a call whose body is already encoded.
    pub(crate) async fn send_body<O>(
        &self,
        task: &str,
        own: &TaskOptions,
        body: Bytes,
        unique: Option<String>,
        mut options: SendOptions,
    ) -> Result<AsyncResult<O>> {
        let trace = SendTrace::begin(task, &mut options);
        let sent = self.send_layered(task, own, body, unique, options).await;
        trace.end(sent.as_ref().map(drop));
        sent
    }

    async fn send_layered<O>(
        &self,
        task: &str,
        own: &TaskOptions,
        body: Bytes,
        unique: Option<String>,
        mut options: SendOptions,
    ) -> Result<AsyncResult<O>> {
        if self.middleware().is_empty() {
            return self.send_through(task, own, body, unique, &options).await;
        }
        // Boxed: a call without middleware must not pay for the size of this future.
        Box::pin(async {
            options.task_id.get_or_insert_with(|| Uuid::now_v7().to_string());
            let mut call = Outgoing { task, options: &mut options };
            self.middleware().before_publish(&mut call).await?;
            let sent = self.send_through(task, own, body, unique, call.options).await;
            self.middleware().after_publish(&call, sent.as_ref().map(drop)).await;
            sent
        })
        .await
    }
}
