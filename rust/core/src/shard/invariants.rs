//! The invariants that a shard can see, counted anew from its parts.

use super::dispatch::lane_number;
use super::heads::Head;
use super::{Lane, Shard};
use crate::buffer::{Run, to_usize};
use crate::config::SPAN_MAX;
use crate::lanes::lane as lane_of;
use crate::records::Records;
use crate::stats::LaneState;

impl Shard {
    /// Verifies the invariants that a shard can see, counting everything anew. O(records held).
    ///
    /// # Panics
    ///
    /// One of them is broken; the message begins with its number.
    pub(crate) fn check_invariants(&mut self) {
        let live: Vec<Run> = self.lanes.iter().flat_map(Lane::runs).copied().collect();
        let lanes = self.lanes.iter().zip(0..);
        let with_lanes: Vec<(u8, Run)> = lanes
            .flat_map(|(lane, index)| lane.runs().map(move |run| (index, *run)))
            .collect();
        self.buffer.check(&with_lanes);
        let lanes = usize::from(self.mapping().parallelization_factor);
        assert!(self.in_flight() <= lanes, "I4: one batch a lane");
        self.heads.check();
        for (index, lane) in self.lanes.iter().enumerate() {
            self.check_order(index, lane);
            self.check_work(index, lane, self.heads[index]);
        }
        self.check_completion(&live);
        self.check_window();
        assert_eq!(
            self.relief_at.is_some(),
            self.buffer.is_relieving(),
            "I11: relief that is under way goes on by itself"
        );
        assert!(
            self.span() <= SPAN_MAX + u64::from(u32::MAX),
            "I10: the span is bounded"
        );
    }

    fn check_order(&self, index: usize, lane: &Lane) {
        let factor = self.mapping().parallelization_factor;
        let mut previous = None;
        for run in lane.runs() {
            let slot = self.buffer.slot(run.slot);
            for at in run.start..run.end {
                let record = slot.index(at);
                let ordinal = slot.leaf.ordinal(record);
                assert!(
                    previous < Some(ordinal),
                    "I3: a lane is in the order of the log"
                );
                previous = Some(ordinal);
                let own = lane_of(slot.leaf.page.key_hash(to_usize(record)), factor);
                assert_eq!(own, lane_number(index), "I4: a key is in one lane");
            }
        }
    }

    fn check_work(&self, index: usize, lane: &Lane, head: Head) {
        let first = lane
            .front()
            .map(|run| self.buffer.ordinal(run.slot, run.start));
        assert_eq!(
            head.first,
            first.unwrap_or(u64::MAX),
            "I3: the first record of a lane"
        );
        if let Some(work) = &lane.work {
            work.check(&self.buffer);
            let mapping = self.mapping();
            let top = work.top().expect("I6: a batch in work has a frame");
            assert!(
                top.len() <= mapping.batch_size,
                "I4: at most BatchSize records"
            );
            if let Some(max) = mapping.retry_attempts_max {
                assert!(
                    top.attempts <= max,
                    "I5: at most MaximumRetryAttempts + 1 attempts"
                );
            }
            let is_in_flight = matches!(head.state, LaneState::InFlight(_));
            assert!(
                is_in_flight || lane.shared.is_none(),
                "I4: a lane shares its batch in flight, and no other"
            );
            if is_in_flight {
                let mut event = Vec::new();
                let records = Records::of_work(&self.buffer, work);
                let shared = lane.shared.as_ref();
                assert!(
                    shared.is_none_or(|shared| shared.0.records.is_at(&records)),
                    "I10: a batch in flight and its lane have the same records in the same pages"
                );
                let window = self.window_of(index);
                records.write_event(&self.info.template, window.as_ref(), &mut event);
                let counted = records.event_bytes(&self.info.template, window.as_ref());
                let spare = counted.checked_sub(event.len());
                assert!(
                    spare == Some(0) || window.is_some() && spare.is_some_and(|spare| spare <= 2),
                    "I4: the size of an event is known before it is written"
                );
                assert!(
                    event.len() <= to_usize(mapping.payload_bytes_max),
                    "I4: at most the payload limit"
                );
            }
        }
        let busy = matches!(head.state, LaneState::InFlight(_) | LaneState::Parked(_));
        assert!(
            !busy || lane.work.is_some(),
            "I4: a lane that runs or is parked has a batch in work"
        );
        assert!(
            head.state != LaneState::Empty || lane.front().is_none() && lane.work.is_none(),
            "I1: an empty lane has no records"
        );
        assert!(
            head.state == LaneState::Empty || lane.front().is_some() || self.window.is_some(),
            "I1: a lane without records is empty, or closes a window"
        );
    }

    fn check_completion(&mut self, live: &[Run]) {
        let unconfirmed: usize = self.lanes.iter().map(|lane| lane.marks.unconfirmed()).sum();
        assert_eq!(
            unconfirmed,
            self.unconfirmed.len(),
            "I2: each unconfirmed discard holds back a lane"
        );
        let bytes: usize = self.unconfirmed.values().map(|waiting| waiting.bytes).sum();
        assert_eq!(
            bytes, self.unconfirmed_bytes,
            "I10: bytes of unconfirmed discards"
        );
        let counters = self.counters;
        let ended = counters.already_complete
            + counters.filtered
            + counters.succeeded
            + counters.discarded
            + counters.expired;
        assert_eq!(
            counters.records,
            ended + self.buffer.live(),
            "I1: each record is live, filtered out, succeeded, discarded, expired, or was complete before"
        );
        let watermark = self.move_watermark();
        for run in live {
            let slot = self.buffer.slot(run.slot);
            let first = slot.leaf.page.position(to_usize(slot.index(run.start)));
            assert!(
                watermark < Some(first),
                "I2: the watermark is below every incomplete record"
            );
        }
        for lane in &self.lanes {
            if let (Some(mark), Some(run)) = (lane.marks.mark(), lane.front()) {
                let slot = self.buffer.slot(run.slot);
                let first = slot.leaf.page.position(to_usize(slot.index(run.start)));
                assert!(
                    *mark < first,
                    "I2: a mark is below what its lane has not completed"
                );
            }
        }
    }
}
