//! What is counted of a batch, once when it is handed out and once when its outcome comes.

use super::Shard;
use crate::batch::{Outcome, around_bytes};
use crate::buffer::to_usize;
use crate::distribution::minute;
use crate::stats::Age;
use crate::window::Window;

/// A batch in flight, as far as its end will count it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sent {
    at_ms: i64,
    /// None for a closing call, which has no records.
    last_arrival_ms: Option<i64>,
}

impl Shard {
    /// The top frame is handed out. What its records add to the event is known.
    pub(super) fn count_sent(&mut self, index: usize, window: Option<&Window>, now: i64) {
        let work = self.lanes[index].work.as_ref();
        let work = work.expect("a lane that hands out has a batch in work");
        let top = self.top(index);
        let (len, bytes) = (top.len(), top.bytes.unwrap_or(u32::MAX));
        let last = work.last_of_first(len).map(|run| {
            let leaf = &self.buffer.slot(run.slot).leaf;
            let at = leaf.order()[to_usize(run.end - 1)];
            leaf.page.arrival_ms(to_usize(at))
        });
        let sent = Sent {
            at_ms: now,
            last_arrival_ms: last,
        };
        self.lanes[index].sent = sent;
        let around = around_bytes(&self.info.template, window);
        let bytes = i64::try_from(around).unwrap_or(i64::MAX) + i64::from(bytes);
        let stream_now = self.stream_now(now);
        let counted = &mut self.distributions;
        let minute = minute(now);
        counted.batch_records.count(i64::from(len), minute);
        counted.event_bytes.count(bytes, minute);
        if let Some(arrival) = sent.last_arrival_ms {
            let age = stream_now.saturating_sub(arrival);
            counted.iterator_ages_sent_ms.count(age, minute);
            self.sent = Some(Age::at(age, now));
        }
    }

    /// The outcome of a batch with so many records has come.
    pub(super) fn count_finished(
        &mut self,
        index: usize,
        outcome: &Outcome,
        records: u32,
        now: i64,
    ) {
        let attempts = self.top(index).attempts;
        let stream_now = self.stream_now(now);
        let sent = self.lanes[index].sent;
        let handler = now.saturating_sub(sent.at_ms);
        let minute = minute(now);
        self.distributions.handler_ms.count(handler, minute);
        if let Some(arrival) = sent.last_arrival_ms {
            let age = stream_now.saturating_sub(arrival);
            self.distributions.iterator_ages_ms.count(age, minute);
            self.finished = Some(Age::at(age, now));
        }
        let failed = *outcome != Outcome::Success;
        let counters = &mut self.counters;
        if failed {
            counters.failed_records += u64::from(records);
        }
        if matches!(outcome, Outcome::Throttled | Outcome::TooLarge { .. }) {
            counters.throttles += 1;
        } else {
            counters.invocations += 1;
            counters.retries += u64::from(attempts > 0);
            counters.failed_invocations += u64::from(failed);
        }
    }
}
