//! A batch in flight: as its shard has it, and as others share it.
//!
//! A batch is shared when somebody asks for it. To read it just after it was handed out it need not be: the shard's own pages are there as
//! long as the shard is borrowed, and no reference is counted.

use std::any::Any;
use std::sync::Arc;

use super::dispatch::lane_number;
use super::{Shard, Spare};
use crate::batch::{Batch, Call, Ticket};
use crate::buffer::to_usize;
use crate::config::{Attachment, ShardConfig};
use crate::page::Record;
use crate::records::Records;
use crate::retry::Work;
use crate::stats::LaneState;

/// A batch that has been handed out and that nobody shares, see [`Engine::take_with`](crate::Engine::take_with).
#[derive(Debug)]
pub struct InFlight<'a> {
    shard: &'a mut Shard,
    lane: usize,
    spare: &'a mut Spare,
}

impl<'a> InFlight<'a> {
    pub(crate) fn new(shard: &'a mut Shard, lane: usize, spare: &'a mut Spare) -> Self {
        Self { shard, lane, spare }
    }

    /// What [`Engine::finish`](crate::Engine::finish) takes.
    #[must_use]
    pub fn ticket(&self) -> Ticket {
        self.shard.ticket(self.lane)
    }

    /// The shard, its mapping and the names in its events.
    #[must_use]
    pub fn config(&self) -> &ShardConfig {
        &self.shard.info.config
    }

    /// What was attached to the shard, if it is of this type.
    #[must_use]
    pub fn attachment<T: Any>(&self) -> Option<&T> {
        let attachment = self.config().attachment.as_ref();
        attachment.and_then(Attachment::get)
    }

    /// How many records it has: at least one, but for the closing call of a tumbling window.
    #[must_use]
    pub fn len(&self) -> usize {
        to_usize(self.shard.top(self.lane).len())
    }

    /// What its records and the commas between them add to its event.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let bytes = self.shard.top(self.lane).bytes;
        to_usize(bytes.expect("it is known of a batch that is handed out"))
    }

    /// Whether it has no records: it is the closing call of a tumbling window.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether its records are in a tumbling window, or it closes one.
    #[must_use]
    pub fn has_window(&self) -> bool {
        let work = self.shard.lanes[self.lane].work.as_ref();
        self.is_empty() || work.is_some_and(|work| work.window.is_some())
    }

    /// The records in order.
    pub fn records(&self) -> impl Iterator<Item = Record<'_>> {
        let work = self.shard.lanes[self.lane].work.iter();
        let runs = work.flat_map(Work::top_runs);
        self.shard.buffer.records(runs)
    }

    /// The first record of the lane that is in no batch yet: the one to be read next of the lane, if all goes well.
    #[must_use]
    pub fn behind(&self) -> Option<Record<'_>> {
        let front = self.shard.lanes[self.lane].queue.front()?;
        let leaf = &self.shard.buffer.slot(front.slot).leaf;
        let index = leaf.order()[to_usize(front.start)];
        Some(leaf.page.record(to_usize(index)))
    }

    /// The batch, to keep it, or to read it when the engine is not borrowed any more.
    #[must_use]
    pub fn batch(self) -> Batch {
        self.shard.share(self.lane, self.spare)
    }
}

impl Shard {
    /// The ticket of a lane's batch in flight.
    fn ticket(&self, index: usize) -> Ticket {
        let LaneState::InFlight(serial) = self.heads[index].state else {
            unreachable!("I4: a batch is in flight until it is finished");
        };
        Ticket::new(self.info.shard, lane_number(index), serial)
    }

    /// The batch in flight that a ticket names; None where it is finished.
    #[must_use]
    pub(crate) fn batch(&mut self, ticket: Ticket, spare: &mut Spare) -> Option<Batch> {
        let index = usize::from(ticket.lane());
        let head = self.heads.get(index)?;
        let is_in_flight = head.state == LaneState::InFlight(ticket.serial());
        is_in_flight.then(|| self.share(index, spare))
    }

    /// A lane's batch in flight, which the lane keeps too, to put its records elsewhere.
    pub(super) fn share(&mut self, index: usize, spare: &mut Spare) -> Batch {
        if let Some(shared) = &self.lanes[index].shared {
            return shared.clone();
        }
        let (ticket, window) = (self.ticket(index), self.window_of(index));
        let lane = &mut self.lanes[index];
        let work = lane.work.as_ref();
        let work = work.expect("a lane with a batch in flight has it in work");
        let top = work.top().expect("a batch in work has a frame");
        let records = Records::of_work(&self.buffer, work);
        let call = Call {
            ticket,
            request_id: self.chance.request_id(top.serial),
            attempt: top.attempts + 1,
            len: top.len(),
        };
        let batch = match spare.batches.pop() {
            Some(spare) => spare.again(&self.info, call, records, window),
            None => Batch::new(Arc::clone(&self.info), call, records, window),
        };
        lane.shared = Some(batch.clone());
        batch
    }
}
