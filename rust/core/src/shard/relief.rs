//! Which lanes are stuck, and the memory that they would keep beside their own records.

use super::Shard;
use super::dispatch::lane_number;
use crate::buffer::{LaneSet, Moved};
use crate::records::Records;
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

    /// Moves the records of stuck lanes out of pages that nothing else keeps, where that is worth it. A batch in flight goes with its
    /// records; whoever is reading it at this moment goes on in the old pages.
    pub(super) fn relieve(&mut self) {
        if !self.buffer.may_need_relief() {
            return;
        }
        let lanes = 0..self.lanes.len();
        let stuck: LaneSet = lanes
            .clone()
            .filter(|index| self.is_stuck(*index))
            .fold(0, |set, index| set | 1 << index);
        if !self.buffer.needs_relief(stuck) {
            return;
        }
        for index in lanes.filter(|index| stuck >> index & 1 == 1) {
            self.relieve_work(index);
            self.relieve_queue(index);
        }
    }

    fn relieve_work(&mut self, index: usize) {
        let lane = &mut self.lanes[index];
        let Some(work) = &mut lane.work else {
            return;
        };
        let queued = lane.queue.front().map(|run| run.slot);
        let mut told = Vec::new();
        let moved = |one| told.push(one);
        self.buffer
            .gather(lane_number(index), work.runs_mut(), queued, moved);
        if let Some(in_flight) = lane.in_flight.as_ref().filter(|_| !told.is_empty()) {
            in_flight
                .0
                .records
                .put(Records::of_work(&self.buffer, work));
        }
        let in_flight = lane.in_flight.is_some();
        self.note_moved(told, in_flight);
    }

    fn relieve_queue(&mut self, index: usize) {
        let lane = &mut self.lanes[index];
        let in_work = lane.work.as_ref().and_then(|work| work.runs().last());
        let in_work = in_work.map(|run| run.slot);
        let mut told = Vec::new();
        let moved = |one| told.push(one);
        self.buffer
            .gather(lane_number(index), lane.queue.runs_mut(), in_work, moved);
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
