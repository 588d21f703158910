//! Which lanes are stuck, and the memory that they would keep beside their own records.

use std::ops::Range;

use super::dispatch::lane_number;
use super::heads::lanes;
use super::{Lane, Shard};
use crate::buffer::{LaneSet, Moved};
use crate::records::Records;
use crate::retry::Work;
use crate::stats::LaneState;
use crate::trace::Event;

/// So many batches of each lane, taken over all lanes, may end before one that is in flight meanwhile counts as stuck.
const BATCHES_A_LANE: u64 = 2;

impl Shard {
    /// A lane is stuck while it is parked, and while a batch of it is in flight for long: the others have had time for two each. It is
    /// told by what has ended, not by time.
    fn is_stuck(&self, index: usize) -> bool {
        let patience = BATCHES_A_LANE * self.lanes.len() as u64;
        match self.heads[index].state {
            LaneState::Parked(_) => true,
            LaneState::InFlight(_) => self.batches_ended - self.lanes[index].moved_on > patience,
            _ => false,
        }
    }

    /// One step of moving the records of stuck lanes out of pages that nothing else keeps, where that is worth it. It moves about as many
    /// bytes as the configuration says. Where there is more to move, each offer and each outcome makes another step, and a
    /// [`tick`](Self::tick) does that is due a millisecond later.
    ///
    /// A batch in flight goes with its records; whoever is reading it at this moment goes on in the old pages.
    pub(super) fn relieve(&mut self, now: i64) {
        if !self.buffer.may_need_relief() {
            return;
        }
        let stuck: LaneSet = (0..self.lanes.len())
            .filter(|index| self.is_stuck(*index))
            .fold(0, |set, index| set | 1 << index);
        if let Some(from) = self.buffer.relief_from(stuck) {
            let share = self.info.config.relief_step_bytes / u64::from(stuck.count_ones());
            let reaches = lanes(stuck).map(|index| {
                let Lane { work, queue, .. } = &self.lanes[index];
                let lists = work.iter().map(Work::runs).chain([queue.runs()]);
                self.buffer.reach(lists, from, share.max(1))
            });
            let step = from..reaches.min().unwrap_or(u64::MAX);
            for index in lanes(stuck) {
                self.relieve_work(index, &step);
                self.relieve_queue(index, &step);
            }
            self.buffer.relieved(step.end);
        }
        // Another pass may be needed.
        let goes_on = self.buffer.relief_from(stuck).is_some();
        self.relief_at = goes_on.then(|| now.saturating_add(1));
    }

    fn relieve_work(&mut self, index: usize, step: &Range<u64>) {
        let lane = &mut self.lanes[index];
        let Some(work) = &mut lane.work else {
            return;
        };
        let around = [None, lane.queue.front().map(|run| run.slot)];
        let mut told = Vec::new();
        let moved = |one| told.push(one);
        self.buffer
            .gather(lane_number(index), work.runs_mut(), step, around, moved);
        if let Some(shared) = lane.shared.as_ref().filter(|_| !told.is_empty()) {
            shared.0.records.put(Records::of_work(&self.buffer, work));
        }
        let in_flight = matches!(self.heads[index].state, LaneState::InFlight(_));
        self.note_moved(told, in_flight);
    }

    fn relieve_queue(&mut self, index: usize, step: &Range<u64>) {
        let lane = &mut self.lanes[index];
        let in_work = lane.work.as_ref().and_then(|work| work.runs().last());
        let around = [in_work.map(|run| run.slot), None];
        let mut told = Vec::new();
        let moved = |one| told.push(one);
        self.buffer.gather(
            lane_number(index),
            lane.queue.runs_mut(),
            step,
            around,
            moved,
        );
        self.note_moved(told, false);
    }

    fn note_moved(&mut self, pages: Vec<Moved>, in_flight: bool) {
        for moved in pages {
            self.note(|| Event::Compacted {
                records: moved.records,
                in_flight,
                bytes_before: moved.bytes_before,
                bytes_after: moved.bytes_after,
            });
        }
    }
}
