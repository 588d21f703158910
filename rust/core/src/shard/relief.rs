//! Which lanes are stuck, and the memory that they would keep beside their own records.

use super::Shard;
use super::dispatch::lane_number;
use crate::buffer::{LaneSet, SlotId};
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

    /// Moves what waits in stuck lanes out of pages that nothing else keeps, where that is worth it. What is in flight stays where it is:
    /// whoever runs it holds its pages.
    pub(super) fn relieve(&mut self) {
        if !self.buffer.may_need_relief() {
            return;
        }
        let lanes = 0..self.lanes.len();
        let stuck: LaneSet = lanes
            .clone()
            .filter(|index| self.is_stuck(*index))
            .fold(0, |set, index| set | 1 << index);
        let parked: LaneSet = lanes
            .clone()
            .filter(|index| matches!(self.heads[*index].state, LaneState::Parked(_)))
            .fold(0, |set, index| set | 1 << index);
        if !self.buffer.needs_relief(stuck, parked) {
            return;
        }
        let works = self
            .lanes
            .iter()
            .zip(&self.heads)
            .filter_map(|(lane, head)| {
                let in_flight = matches!(head.state, LaneState::InFlight(_));
                lane.work.as_ref().filter(|_| in_flight)
            });
        let runs = works.flat_map(Work::runs);
        let mut in_flight: Vec<SlotId> = runs.map(|run| run.slot).collect();
        in_flight.sort_unstable();
        for index in lanes.filter(|index| stuck >> index & 1 == 1) {
            let number = lane_number(index);
            let mut told = Vec::new();
            let lane = &mut self.lanes[index];
            if let (LaneState::Parked(_), Some(work)) = (self.heads[index].state, &mut lane.work) {
                let queued = lane.queue.front().map(|run| run.slot);
                let moved = |one| told.push(one);
                self.buffer
                    .gather(number, work.runs_mut(), &in_flight, queued, moved);
            }
            let in_work = lane.work.as_ref().and_then(|work| work.runs().last());
            let in_work = in_work.map(|run| run.slot);
            let moved = |one| told.push(one);
            self.buffer
                .gather(number, lane.queue.runs_mut(), &in_flight, in_work, moved);
            for moved in told {
                self.note(|| Event::Compacted {
                    records: moved.records,
                    bytes_before: moved.bytes_before,
                    bytes_after: moved.bytes_after,
                });
            }
        }
    }
}
