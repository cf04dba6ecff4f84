//! What happened, for the event log. Told at once, written as soon as the metadata takes it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use namespace::catalog::{self, Severity};
use tokio::sync::Notify;

use crate::fleet::lock;
use crate::node::Inner;

/// Events that wait to be written; more push out the oldest.
const WAITING_MAX: usize = 1000;

/// Events that wait to be written.
#[derive(Default)]
pub(crate) struct Events {
    waiting: Mutex<VecDeque<catalog::Event>>,
    some: Notify,
}

impl Inner {
    /// Tells an event: to the log at once, to the event log soon.
    pub fn tell(&self, severity: Severity, area: &str, subject: &str, text: String) {
        match severity {
            Severity::Info => tracing::info!(area, subject, "{text}"),
            Severity::Warning => tracing::warn!(area, subject, "{text}"),
            Severity::Error => tracing::error!(area, subject, "{text}"),
        }
        let event = catalog::Event {
            number: 0,
            at: self.env.clock.wall(),
            severity,
            area: area.into(),
            subject: subject.into(),
            text,
        };
        let mut waiting = lock(&self.events.waiting);
        if waiting.len() >= WAITING_MAX {
            waiting.pop_front();
        }
        waiting.push_back(event);
        self.events.some.notify_one();
    }

    pub async fn flush_events(&self) {
        let batch: Vec<catalog::Event> = lock(&self.events.waiting).drain(..).collect();
        if batch.is_empty() {
            return;
        }
        if let Err(error) = self.change(|view| Ok((catalog::add_events(view, batch.clone())?, ()))).await {
            tracing::debug!(%error, "events wait: the metadata takes none");
            let mut waiting = lock(&self.events.waiting);
            batch.into_iter().rev().for_each(|event| waiting.push_front(event));
            waiting.truncate(WAITING_MAX);
        }
    }
}

/// Writes events as they come.
pub(crate) async fn write(inner: Arc<Inner>) {
    while !inner.is_closing() {
        // Looked at now and then as well: what failed to be written waits.
        inner.env.timeout(Duration::from_secs(1), inner.events.some.notified()).await;
        inner.flush_events().await;
    }
}
