//! The engine of one shard: feed it, ask what is ready, say how it went.
//!
//! It knows the other modules and none of them knows it: [`buffer`](crate::buffer) holds pages, a lane has a queue
//! ([`assemble`](crate::assemble)) and a batch in work ([`retry`](crate::retry)), and [`marks`](crate::marks) says how far it is.
//! Everything that is not determined by its input is an argument: the time, pages, outcomes, the seed.
//!
//! Owns invariants I1 (every record ends as succeeded, discarded or expired), I3 and I4 (order and one batch a lane).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::assemble::{LaneQueue, Limits};
use crate::batch::{Batch, Outcome, Records, Response, ShardInfo, Slice, Ticket};
use crate::buffer::{Buffer, Leaf, Run, SlotId, to_usize};
use crate::chance::Chance;
use crate::checkpoint::{Checkpoint, CheckpointError, LaneTag};
use crate::config::{
    ConfigError, FETCH_RECORDS_MAX, MappingConfig, SPAN_MAX, ShardConfig, StreamClock,
    UNCONFIRMED_DISCARDS_MAX,
};
use crate::discard::{Condition, Confirmation, Discard, DiscardId};
use crate::event::{EventIdentity, EventTemplate};
use crate::lanes::{LANE_FUNCTION_VERSION, lane};
use crate::marks::{FormerLanes, LaneMarks};
use crate::page::Page;
use crate::position::{Position, SequenceNumber, compare_sequences};
use crate::retry::{Fate, Work};
use crate::stats::{Counters, LaneState, LaneStats, ShardState, ShardStats};
use crate::trace::Event;

/// What became of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offered {
    /// False where there is no room; nothing was taken in.
    pub accepted: bool,
    /// Records taken in, those that are already complete included.
    pub records: u32,
    /// Records dropped because their position had been taken in before.
    pub duplicates: u32,
    /// Records that the restored checkpoint knows as complete.
    pub complete: u32,
}

/// Leave to fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Want {
    /// The last record taken in, or the watermark of the checkpoint.
    pub after: Option<Position>,
    /// The most records to ask for.
    pub limit: u32,
}

/// What [`Shard::take`] gives: something to run, or something to deliver.
#[derive(Debug, Clone)]
pub enum Task {
    /// Invoke the function with it, then call `finish`.
    Run(Batch),
    /// Deliver it, then call `confirm`.
    Deliver(Discard),
}

/// What [`Shard::finish`] led to.
#[derive(Debug, Clone, Default)]
pub struct Finished {
    /// The ticket is of a shard that is gone; nothing was changed.
    pub stale: bool,
    /// What was given up; deliver each, then call `confirm`.
    pub discards: Vec<Discard>,
}

/// One consistent snapshot, to be stored and then confirmed with [`Shard::saved`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Grows with every change.
    pub version: u64,
    /// What to store.
    pub checkpoint: Checkpoint,
}

/// A call that the life cycle does not allow. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UsageError {
    /// No shard has this handle any more, or ever had.
    #[error("there is no shard {shard}")]
    NoShard {
        /// The handle.
        shard: u32,
    },
    /// The mapping already has a shard of this name.
    #[error("the mapping already has a shard {shard_id:?}")]
    ShardExists {
        /// The shard's name.
        shard_id: String,
    },
    /// The batch was finished before, or the ticket was never given out.
    #[error(
        "the batch of this ticket is not in flight: it was finished before, or never handed out"
    )]
    NotInFlight,
    /// A partial outcome names a record that the batch does not have.
    #[error("record {index} of a batch of {records} records cannot have failed")]
    NoSuchRecord {
        /// The index of the outcome.
        index: u32,
        /// Records of the batch.
        records: u32,
    },
    /// Window state was given for a mapping without tumbling windows.
    #[error("window state was given, and the mapping has no tumbling window")]
    NoWindow,
    /// A page came after the end of the shard.
    #[error("the shard is closed, and a page with records was offered")]
    Closed,
    /// Sequence numbers cannot grow further.
    #[error("no sequence number follows {after}")]
    NoSuccessor {
        /// The largest number.
        after: String,
    },
    /// Batches are in flight or discards unconfirmed.
    #[error(
        "{in_flight} batches are in flight and {unconfirmed} discards unconfirmed; pause or drain the shard first"
    )]
    Busy {
        /// Batches in flight.
        in_flight: usize,
        /// Discards not confirmed.
        unconfirmed: usize,
    },
    /// A parameter is outside its range.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A checkpoint cannot be restored.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
}

#[derive(Debug)]
struct Lane {
    state: LaneState,
    queue: LaneQueue,
    work: Option<Work>,
    /// When its last batch ended; the batching window does not start before.
    last_completion: i64,
    marks: LaneMarks,
}

impl Lane {
    fn new() -> Self {
        Self {
            state: LaneState::Empty,
            queue: LaneQueue::default(),
            work: None,
            last_completion: i64::MIN,
            marks: LaneMarks::default(),
        }
    }

    /// The run that begins with the first incomplete record.
    fn front(&self) -> Option<Run> {
        self.work
            .as_ref()
            .and_then(Work::front)
            .or_else(|| self.queue.front())
    }

    fn runs(&self) -> impl Iterator<Item = &Run> {
        self.work
            .iter()
            .flat_map(Work::runs)
            .chain(self.queue.runs())
    }
}

#[derive(Debug)]
struct Unconfirmed {
    lane: u8,
    bytes: usize,
}

/// One shard. See the [crate page](crate) for how it is driven.
#[derive(Debug)]
pub struct Shard {
    info: Arc<ShardInfo>,
    limits: Limits,
    chance: Chance,
    paused: bool,
    draining: bool,
    closed: bool,
    /// No room to fetch: what waits for a batching window is handed out.
    starved: bool,
    lanes: Vec<Lane>,
    buffer: Buffer,
    former: FormerLanes,
    /// The highest watermark known; `watermark()` moves it on.
    watermark: Option<Position>,
    last_taken_in: Option<Position>,
    next_ordinal: u64,
    /// The largest arrival time handed out.
    replay_now: i64,
    millis_behind: Option<i64>,
    unconfirmed: BTreeMap<u64, Unconfirmed>,
    unconfirmed_bytes: usize,
    outbox: VecDeque<Discard>,
    next_serial: u64,
    /// Changes that a checkpoint would show, and how many of them the store has.
    changed: u64,
    saved: u64,
    counters: Counters,
    trace: Option<Vec<Event>>,
    /// The lane of each record of the page that is taken in; kept for its memory.
    scratch: Vec<Option<u8>>,
}

impl Shard {
    /// Makes a shard that goes on from a checkpoint, or begins anew.
    ///
    /// `handle` stands in tickets; [`Engine`](crate::Engine) gives each shard another.
    ///
    /// # Errors
    ///
    /// A parameter is outside its range, or the checkpoint is of another shard.
    pub fn new(
        handle: u32,
        mut config: ShardConfig,
        checkpoint: Option<Checkpoint>,
    ) -> Result<Self, UsageError> {
        config.mapping.validate()?;
        let fresh = checkpoint.is_none();
        let restored = match checkpoint {
            Some(checkpoint) => {
                checkpoint.require_key(&config.key)?;
                checkpoint
            }
            None => Checkpoint::fresh(config.key.clone(), config.start),
        };
        config.start = restored.start;
        let factor = config.mapping.parallelization_factor;
        let chance = Chance::new(
            config.seed,
            &format!("{}/{}", config.key.mapping_uuid, config.key.shard_id),
        );
        let info = Self::info(handle, config);
        Ok(Self {
            limits: Self::limits(&info),
            info,
            chance,
            paused: false,
            draining: false,
            closed: restored.ended,
            starved: false,
            lanes: (0..factor).map(|_| Lane::new()).collect(),
            buffer: Buffer::default(),
            former: FormerLanes::new(restored.lanes),
            last_taken_in: restored.watermark.clone(),
            watermark: restored.watermark,
            next_ordinal: 0,
            replay_now: i64::MIN,
            millis_behind: None,
            unconfirmed: BTreeMap::new(),
            unconfirmed_bytes: 0,
            outbox: VecDeque::new(),
            next_serial: 0,
            changed: u64::from(fresh),
            saved: 0,
            counters: Counters::default(),
            trace: None,
            scratch: Vec::new(),
        })
    }

    fn info(shard: u32, config: ShardConfig) -> Arc<ShardInfo> {
        let template = EventTemplate::new(&EventIdentity {
            shard_id: config.key.shard_id.clone(),
            event_source_arn: config.identity.event_source_arn.clone(),
            invoke_identity_arn: config.identity.execution_role_arn.clone(),
            aws_region: config.identity.aws_region.clone(),
        });
        Arc::new(ShardInfo {
            shard,
            config,
            template,
        })
    }

    fn limits(info: &ShardInfo) -> Limits {
        Limits {
            batch_size: info.config.mapping.batch_size,
            payload_bytes_max: info.config.mapping.payload_bytes_max,
            record_bytes: info.template.record_bytes(),
        }
    }

    fn mapping(&self) -> &MappingConfig {
        &self.info.config.mapping
    }

    /// What the shard was made with.
    #[must_use]
    pub fn config(&self) -> &ShardConfig {
        &self.info.config
    }

    // ---- intake ----

    /// Leave to fetch, given `room`: whether the budget has room for another page. Refusing it closes open batches at once.
    pub fn wants(&mut self, room: bool, now: i64) -> Option<Want> {
        if self.paused || self.draining || self.closed {
            return None;
        }
        let span_left = SPAN_MAX.saturating_sub(self.span());
        let limit = u32::try_from(span_left)
            .unwrap_or(u32::MAX)
            .min(FETCH_RECORDS_MAX);
        if !room || limit == 0 {
            self.starve(now);
            return None;
        }
        self.starved = false;
        Some(Want {
            after: self.last_taken_in.clone(),
            limit,
        })
    }

    /// Says that nothing more can be fetched for now: lanes stop to wait for more records.
    pub fn starve(&mut self, now: i64) {
        self.starved = true;
        self.refresh_waiting(now);
    }

    /// Takes a page in, whole or not at all. Records at or below the last position taken in are dropped and counted.
    ///
    /// # Errors
    ///
    /// The shard is closed, or no sequence number is left to assign.
    pub fn offer(
        &mut self,
        mut page: Arc<Page>,
        millis_behind: Option<i64>,
        now: i64,
    ) -> Result<Offered, UsageError> {
        if self.closed && !page.is_empty() {
            return Err(UsageError::Closed);
        }
        if page.has_unassigned() {
            let after = self.highest_known().cloned();
            Arc::make_mut(&mut page)
                .assign_sequences(after.as_ref())
                .map_err(|_| UsageError::NoSuccessor {
                    after: after.map_or_else(String::new, |sequence| sequence.as_str().to_owned()),
                })?;
        }
        self.millis_behind = millis_behind;
        let (page, duplicates) = self.without_duplicates(page);
        let records = u32::try_from(page.len()).expect("a page has less than 2^32 records");
        self.counters.duplicates += u64::from(duplicates);
        let mut complete = 0;
        if records > 0 {
            complete = self.sort_in(page, now);
            self.counters.records += u64::from(records);
            self.counters.already_complete += u64::from(complete);
            self.changed += u64::from(complete > 0);
        }
        if records > 0 || duplicates > 0 {
            self.note(|| Event::Offered {
                records,
                duplicates,
                complete,
            });
        }
        self.after_step();
        Ok(Offered {
            accepted: true,
            records,
            duplicates,
            complete,
        })
    }

    /// The largest sequence number that any record taken in, or any mark of an earlier run, has.
    fn highest_known(&self) -> Option<&SequenceNumber> {
        let known = self.last_taken_in.as_ref().max(self.former.highest());
        known.map(|position| &position.sequence)
    }

    fn without_duplicates(&self, page: Arc<Page>) -> (Arc<Page>, u32) {
        let mut highest = self.last_taken_in.as_ref().map_or(("", 0), |position| {
            (position.sequence.as_str(), position.sub)
        });
        let mut fresh: Vec<u32> = Vec::new();
        let mut dropped: u32 = 0;
        for (index, at) in (0..page.len()).zip(0_u32..) {
            let (sequence, sub) = (page.sequence(index), page.sub(index));
            let order = compare_sequences(sequence.as_bytes(), highest.0.as_bytes())
                .then(sub.cmp(&highest.1));
            if order.is_gt() || highest.0.is_empty() {
                highest = (sequence, sub);
                if dropped > 0 {
                    fresh.push(at);
                }
            } else {
                if dropped == 0 {
                    fresh.extend(0..at);
                }
                dropped += 1;
            }
        }
        if dropped == 0 {
            (page, 0)
        } else {
            (Arc::new(page.compact(&fresh)), dropped)
        }
    }

    /// Gives each record its lane. Returns how many were complete already.
    fn sort_in(&mut self, page: Arc<Page>, now: i64) -> u32 {
        let factor = self.mapping().parallelization_factor;
        let mut lanes = std::mem::take(&mut self.scratch);
        lanes.clear();
        lanes.extend((0..page.len()).map(|index| {
            let hash = page.key_hash(index);
            let complete =
                !self.former.is_empty() && self.former.has_completed(hash, &page.position(index));
            (!complete).then(|| lane(hash, factor))
        }));
        let complete = lanes.iter().filter(|lane| lane.is_none()).count();
        let last = page.position(page.len() - 1);
        let first_ordinal = self.next_ordinal;
        self.next_ordinal += u64::try_from(page.len()).expect("a page has less than 2^32 records");
        let before = self.last_taken_in.replace(last);
        let runs = self
            .buffer
            .insert(page, &lanes, factor, first_ordinal, before, now);
        self.scratch = lanes;
        for (index, run) in runs.into_iter().flatten().enumerate() {
            if run.len() > 0 {
                self.lanes[index].queue.push(run);
                if self.lanes[index].work.is_none() {
                    self.refresh(index, now);
                }
            }
        }
        u32::try_from(complete).expect("a page has less than 2^32 records")
    }

    /// Says that the source has no further record for this shard, ever.
    pub fn close(&mut self, now: i64) {
        if !self.closed {
            self.closed = true;
            self.note(|| Event::Closed);
            self.refresh_waiting(now);
            // The end of a shard in which nothing is left must reach the store too: its children wait for that.
            self.changed += u64::from(self.is_ended());
            self.note_if_ended();
        }
        self.after_step();
    }

    // ---- batches ----

    /// Whether `take` would give something.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.ready_count() > 0
    }

    /// How many things `take` could give now.
    #[must_use]
    pub fn ready_count(&self) -> usize {
        let lanes = if self.may_hand_out() {
            self.lanes
                .iter()
                .filter(|lane| lane.state == LaneState::Ready)
                .count()
        } else {
            0
        };
        self.outbox.len() + lanes
    }

    /// Whether the next thing that `take` gives is a discard.
    #[must_use]
    pub fn has_discards(&self) -> bool {
        !self.outbox.is_empty()
    }

    fn may_hand_out(&self) -> bool {
        let unsaved = self.info.config.sync_checkpoints && self.saved < self.changed;
        !self.paused && !unsaved && self.unconfirmed.len() < UNCONFIRMED_DISCARDS_MAX
    }

    /// The instant at which a lane becomes ready by itself.
    #[must_use]
    pub fn next_wake(&self) -> Option<i64> {
        let times = self.lanes.iter().filter_map(|lane| match lane.state {
            LaneState::Waiting(until) | LaneState::Parked(until) => Some(until),
            _ => None,
        });
        times.min()
    }

    /// Lets time pass: lanes whose wait is over become ready.
    pub fn tick(&mut self, now: i64) {
        for lane in &mut self.lanes {
            if let LaneState::Waiting(until) | LaneState::Parked(until) = lane.state
                && until <= now
            {
                lane.state = LaneState::Ready;
            }
        }
    }

    /// The next thing to do, or None. Never waits. Call [`Self::tick`] first.
    pub fn take(&mut self, now: i64) -> Option<Task> {
        loop {
            if let Some(discard) = self.outbox.pop_front() {
                return Some(Task::Deliver(discard));
            }
            if !self.may_hand_out() {
                return None;
            }
            let lane = self.oldest_ready()?;
            if self.lanes[lane].work.is_none() {
                self.cut(lane);
            }
            self.settle(lane, now);
            if self.outbox.is_empty()
                && self.lanes[lane].state == LaneState::Ready
                && self.lanes[lane].work.is_some()
            {
                let batch = self.hand_out(lane);
                self.after_step();
                return Some(Task::Run(batch));
            }
            self.after_step();
        }
    }

    /// Of the ready lanes the one with the oldest record, so that the watermark moves.
    fn oldest_ready(&self) -> Option<usize> {
        let ready = self
            .lanes
            .iter()
            .enumerate()
            .filter(|(_, lane)| lane.state == LaneState::Ready);
        ready
            .min_by_key(|(_, lane)| {
                lane.front()
                    .map(|run| self.buffer.ordinal(run.slot, run.start))
            })
            .map(|(index, _)| index)
    }

    fn cut(&mut self, index: usize) {
        let serial = self.serial();
        let lane = &mut self.lanes[index];
        lane.queue.fill(&self.buffer, self.limits);
        let cut = lane.queue.cut();
        let fate = if cut.oversized {
            Fate::Oversized
        } else {
            Fate::Invoke
        };
        lane.work = Some(Work::new(cut.runs, serial, fate));
    }

    fn serial(&mut self) -> u64 {
        self.next_serial += 1;
        self.next_serial
    }

    fn hand_out(&mut self, index: usize) -> Batch {
        let number = lane_number(index);
        let ticket = Ticket::new(self.info.shard, number, self.serial());
        let lane = &mut self.lanes[index];
        let work = lane
            .work
            .as_ref()
            .expect("a lane that hands out has a batch in work");
        let top = work.top().expect("a batch in work has a frame");
        let batch = Batch {
            ticket,
            request_id: self.chance.request_id(top.serial),
            attempt: top.attempts + 1,
            info: Arc::clone(&self.info),
            records: records(&self.buffer, &work.top_runs()),
        };
        lane.state = LaneState::InFlight(ticket.serial());
        self.replay_now = self.replay_now.max(batch.last().arrival_ms());
        self.note(|| Event::HandedOut {
            lane: number,
            first: batch.first().sequence().to_owned(),
            last: batch.last().sequence().to_owned(),
            records: batch.records.len,
            attempt: batch.attempt,
            request_id: batch.request_id.clone(),
        });
        batch
    }

    /// Says how a batch went.
    ///
    /// # Errors
    ///
    /// The batch is not in flight, the outcome names a record that it does not have, or window state was given without a window.
    pub fn finish(
        &mut self,
        ticket: Ticket,
        outcome: Outcome,
        window_state: Option<Vec<u8>>,
        now: i64,
    ) -> Result<Finished, UsageError> {
        let index = usize::from(ticket.lane());
        let lane = self.lanes.get(index).ok_or(UsageError::NotInFlight)?;
        if lane.state != LaneState::InFlight(ticket.serial()) {
            return Err(UsageError::NotInFlight);
        }
        let records = lane
            .work
            .as_ref()
            .and_then(Work::top)
            .map_or(0, |top| top.len());
        if let Outcome::Partial { index, .. } = outcome
            && index >= records
        {
            return Err(UsageError::NoSuchRecord { index, records });
        }
        if window_state.is_some() {
            return Err(UsageError::NoWindow);
        }
        self.lanes[index].state = LaneState::Ready;
        if outcome != Outcome::Throttled {
            self.counters.invocations += 1;
            let attempts = self.top(index).attempts;
            self.counters.retries += u64::from(attempts > 0);
            self.counters.failed_invocations += u64::from(outcome != Outcome::Success);
        }
        match outcome {
            Outcome::Success => self.succeed(index, records, now),
            Outcome::Partial { index: 0, response } | Outcome::Failure(response) => {
                self.fail(index, response, now)
            }
            Outcome::Partial { index: done, .. } => {
                self.note(|| Event::Split {
                    lane: lane_number(index),
                    at: done,
                    records,
                });
                let serial = self.serial();
                let runs = self.work(index).advance(done, serial);
                self.complete(index, &runs);
                self.counters.succeeded += u64::from(done);
                self.note(|| Event::Succeeded {
                    lane: lane_number(index),
                    records: done,
                });
                self.settle(index, now);
            }
            Outcome::Throttled => {
                self.counters.throttles += 1;
                let top = self
                    .work(index)
                    .top_mut()
                    .expect("a batch in work has a frame");
                top.throttles += 1;
                let (throttles, serial) = (top.throttles, top.serial);
                self.note(|| Event::Throttled {
                    lane: lane_number(index),
                    throttles,
                });
                self.park(index, self.chance.backoff_ms(serial, throttles), now);
            }
        }
        self.after_step();
        Ok(Finished {
            stale: false,
            discards: self.outbox.drain(..).collect(),
        })
    }

    fn work(&mut self, index: usize) -> &mut Work {
        self.lanes[index]
            .work
            .as_mut()
            .expect("a lane with a batch in flight has it in work")
    }

    fn top(&self, index: usize) -> &crate::retry::Frame {
        let work = self.lanes[index].work.as_ref();
        work.and_then(Work::top)
            .expect("a batch in work has a frame")
    }

    fn succeed(&mut self, index: usize, records: u32, now: i64) {
        let (_, runs) = self.work(index).pop();
        self.counters.succeeded += u64::from(records);
        self.note(|| Event::Succeeded {
            lane: lane_number(index),
            records,
        });
        self.complete(index, &runs);
        self.settle(index, now);
    }

    fn fail(&mut self, index: usize, response: Response, now: i64) {
        let bisect = self.mapping().bisect_batch_on_function_error;
        let top = self
            .work(index)
            .top_mut()
            .expect("a batch in work has a frame");
        top.attempts += 1;
        top.throttles = 0;
        top.response = Some(response);
        let (records, attempts) = (top.len(), top.attempts);
        self.note(|| Event::Failed {
            lane: lane_number(index),
            records,
            attempts,
        });
        // Age comes before retries.
        if self.split_by_age(index, now) {
            self.settle(index, now);
        } else if bisect && records > 1 {
            let (left, right) = (self.serial(), self.serial());
            self.work(index).bisect(left, right);
            self.note(|| Event::Split {
                lane: lane_number(index),
                at: records / 2,
                records,
            });
        } else {
            self.retry_or_discard(index, now);
        }
    }

    /// An attempt of the top frame failed: the next one after a pause, or none.
    fn retry_or_discard(&mut self, index: usize, now: i64) {
        let (attempts, serial) = (self.top(index).attempts, self.top(index).serial);
        if self
            .mapping()
            .retry_attempts_max
            .is_some_and(|max| attempts > max)
        {
            self.discard(index, Condition::RetryAttemptsExhausted, now);
            self.settle(index, now);
        } else {
            self.park(index, self.chance.backoff_ms(serial, attempts), now);
        }
    }

    /// Brings a lane to where it can hand out, must wait, or has nothing.
    fn settle(&mut self, index: usize, now: i64) {
        loop {
            let Some(fate) = self.lanes[index]
                .work
                .as_ref()
                .and_then(Work::top)
                .map(|top| top.fate)
            else {
                self.lanes[index].work = None;
                self.lanes[index].last_completion = now;
                self.refresh(index, now);
                return;
            };
            match fate {
                Fate::Aged => self.discard(index, Condition::RecordAgeExceeded, now),
                Fate::Expired => self.expire(index),
                Fate::Invoke | Fate::Oversized => {
                    if self.split_by_age(index, now) {
                        continue;
                    }
                    if fate == Fate::Oversized && self.lanes[index].state == LaneState::Ready {
                        self.try_oversized(index, now);
                    }
                    return;
                }
            }
        }
    }

    /// An attempt with a record that no invocation can hold: it fails before the function.
    fn try_oversized(&mut self, index: usize, now: i64) {
        let top = self
            .work(index)
            .top_mut()
            .expect("a batch in work has a frame");
        top.attempts += 1;
        let attempts = top.attempts;
        let run = self.lanes[index]
            .front()
            .expect("a batch in work holds a record");
        let slot = self.buffer.slot(run.slot);
        let sequence = slot
            .leaf
            .page
            .sequence(to_usize(slot.index(run.start)))
            .to_owned();
        self.note(|| Event::Oversized {
            lane: lane_number(index),
            sequence,
            attempts,
        });
        self.retry_or_discard(index, now);
    }

    fn park(&mut self, index: usize, pause_ms: i64, now: i64) {
        let mut until = now.saturating_add(pause_ms);
        if let Some(limit) = self
            .age_limit()
            .filter(|_| self.info.config.clock == StreamClock::Wall)
        {
            let work = self.lanes[index]
                .work
                .as_ref()
                .expect("only a batch in work is parked");
            let records = records(&self.buffer, &work.top_runs());
            let oldest = records.iter().map(|record| record.arrival_ms()).min();
            until = until.min(oldest.map_or(until, |arrival| arrival.saturating_add(limit.0 + 1)));
        }
        self.lanes[index].state = LaneState::Parked(until);
        self.note(|| Event::Parked {
            lane: lane_number(index),
            until,
        });
        for slot in self.buffer.take_sparse() {
            if !self.compact(slot) {
                self.buffer.keep_sparse(slot);
            }
        }
    }

    /// A lane without a batch in work: empty, waiting for its batching window, or ready.
    fn refresh(&mut self, index: usize, now: i64) {
        let window = self.mapping().batching_window_ms;
        let at_once = window == 0 || self.closed || self.draining || self.starved;
        let limit = self
            .age_limit()
            .filter(|_| self.info.config.clock == StreamClock::Wall);
        let lane = &mut self.lanes[index];
        lane.state = match lane.queue.front() {
            None => LaneState::Empty,
            Some(_) if at_once || lane.queue.fill(&self.buffer, self.limits) => LaneState::Ready,
            Some(front) => {
                let slot = self.buffer.slot(front.slot);
                let mut until = lane
                    .last_completion
                    .max(slot.offered_at)
                    .saturating_add(window);
                if let Some((limit, _)) = limit {
                    let arrival = slot.leaf.page.arrival_ms(to_usize(slot.index(front.start)));
                    until = until.min(arrival.saturating_add(limit + 1));
                }
                if until <= now {
                    LaneState::Ready
                } else {
                    LaneState::Waiting(until)
                }
            }
        };
    }

    fn refresh_waiting(&mut self, now: i64) {
        for index in 0..self.lanes.len() {
            if matches!(self.lanes[index].state, LaneState::Waiting(_)) {
                self.refresh(index, now);
            }
        }
    }

    // ---- age ----

    /// The smaller of the record age and the retention, and what exceeding it means.
    fn age_limit(&self) -> Option<(i64, Fate)> {
        let age = self.mapping().record_age_max_ms;
        match (age, self.info.config.retention_ms) {
            (Some(age), Some(retention)) if retention < age => Some((retention, Fate::Expired)),
            (Some(age), _) => Some((age, Fate::Aged)),
            (None, Some(retention)) => Some((retention, Fate::Expired)),
            (None, None) => None,
        }
    }

    /// Cuts the top frame where records are too old. False if none is.
    fn split_by_age(&mut self, index: usize, now: i64) -> bool {
        let Some((limit, fate)) = self.age_limit() else {
            return false;
        };
        let now = match self.info.config.clock {
            StreamClock::Wall => now,
            StreamClock::Replay => self.replay_now,
        };
        let work = self.lanes[index]
            .work
            .as_ref()
            .expect("only a batch in work has an age");
        let top = work.top().expect("a batch in work has a frame");
        let own = top.fate;
        let records = records(&self.buffer, &work.top_runs());
        let fates: Vec<Fate> = records
            .iter()
            .map(|record| {
                let stale = now.saturating_sub(record.arrival_ms()) > limit;
                if stale { fate } else { own }
            })
            .collect();
        let Self {
            lanes, next_serial, ..
        } = self;
        let work = lanes[index]
            .work
            .as_mut()
            .expect("only a batch in work has an age");
        let split = work.split_by_fate(&fates, || {
            *next_serial += 1;
            *next_serial
        });
        if split {
            let at = fates.iter().take_while(|fate| **fate == fates[0]).count();
            self.note(|| Event::Split {
                lane: lane_number(index),
                at: u32::try_from(at).unwrap_or(u32::MAX),
                records: records.len,
            });
        }
        split
    }

    // ---- completion ----

    /// The runs of the top frame are given up. The frame goes; the records are complete for order, not for the checkpoint.
    fn discard(&mut self, index: usize, condition: Condition, now: i64) {
        let number = lane_number(index);
        let serial = self.serial();
        let (frame, runs) = self.work(index).pop();
        let live = records(&self.buffer, &runs);
        let front = runs.first().expect("a frame holds a record");
        let before = self.buffer.predecessor(front.slot, front.start);
        let first_ordinal = self.buffer.ordinal(front.slot, front.start);
        let records = detached(&live);
        let response = frame
            .response
            .filter(|_| condition == Condition::RetryAttemptsExhausted);
        let own_id = response
            .as_ref()
            .and_then(|response| response.request_id.clone());
        let id = DiscardId(Ticket::new(self.info.shard, number, serial));
        let serial = id.0.serial();
        let discard = Discard {
            id,
            condition,
            invoke_count: frame.attempts.max(1),
            request_id: own_id.unwrap_or_else(|| self.chance.request_id(frame.serial)),
            response,
            at_ms: now,
            info: Arc::clone(&self.info),
            records,
        };
        self.note(|| Event::Discarded {
            lane: number,
            condition,
            first: discard.first().sequence().to_owned(),
            last: discard.last().sequence().to_owned(),
            records: frame.end - frame.start,
            invoke_count: discard.invoke_count,
        });
        self.counters.discarded += u64::from(frame.end - frame.start);
        self.counters.discards += 1;
        let last = self.last_of(&runs);
        self.lanes[index]
            .marks
            .discard(serial, first_ordinal, before, last);
        let bytes = discard.records.slices[0].leaf.held_bytes();
        self.unconfirmed.insert(
            serial,
            Unconfirmed {
                lane: number,
                bytes,
            },
        );
        self.unconfirmed_bytes += bytes;
        self.outbox.push_back(discard);
        self.free(&runs);
    }

    /// The runs of the top frame are passed over: the stream no longer keeps them.
    fn expire(&mut self, index: usize) {
        let (frame, runs) = self.work(index).pop();
        self.counters.expired += u64::from(frame.end - frame.start);
        self.note(|| Event::Expired {
            lane: lane_number(index),
            records: frame.end - frame.start,
        });
        self.complete(index, &runs);
    }

    fn complete(&mut self, index: usize, runs: &[Run]) {
        let last = self.last_of(runs);
        self.lanes[index].marks.complete(last);
        self.free(runs);
    }

    fn free(&mut self, runs: &[Run]) {
        self.changed += 1;
        for run in runs {
            self.buffer.complete(*run);
        }
    }

    fn last_of(&self, runs: &[Run]) -> Position {
        let run = runs.last().expect("what completes holds a record");
        let slot = self.buffer.slot(run.slot);
        slot.leaf.page.position(to_usize(slot.index(run.end - 1)))
    }

    /// Moves the live records of a sparse page into a fresh one, if a parked lane is what keeps it and nothing of it is in flight.
    fn compact(&mut self, slot: SlotId) -> bool {
        let mut live: Vec<Run> = Vec::new();
        let (mut parked, mut in_flight) = (false, false);
        for lane in &mut self.lanes {
            let work = lane
                .work
                .as_mut()
                .and_then(|work| work.run_of(slot).copied());
            let queued = lane.queue.run_of(&self.buffer, slot).copied();
            in_flight |= work.is_some() && matches!(lane.state, LaneState::InFlight(_));
            parked |=
                (work.is_some() || queued.is_some()) && matches!(lane.state, LaneState::Parked(_));
            live.extend(work);
            live.extend(queued);
        }
        if in_flight || !parked {
            return false;
        }
        let bytes_before = self.buffer.bytes();
        let mut moved = self.buffer.compact(slot, &live).into_iter();
        for lane in &mut self.lanes {
            let work = lane.work.as_mut().and_then(|work| work.run_of(slot));
            for run in work
                .into_iter()
                .chain(lane.queue.run_of(&self.buffer, slot))
            {
                *run = moved.next().expect("each live run has moved");
            }
        }
        let bytes_after = self.buffer.bytes();
        let records = live.iter().map(|run| run.len()).sum();
        self.note(|| Event::Compacted {
            records,
            bytes_before,
            bytes_after,
        });
        true
    }

    /// A discard has reached its destination, or is given up: the checkpoint may pass it. False if it was confirmed before.
    pub fn confirm(&mut self, id: DiscardId, how: Confirmation) -> bool {
        let Some(waiting) = self.unconfirmed.remove(&id.0.serial()) else {
            return false;
        };
        self.unconfirmed_bytes -= waiting.bytes;
        let known = self.lanes[usize::from(waiting.lane)]
            .marks
            .confirm(id.0.serial());
        assert!(known, "I2: an unconfirmed discard holds back a lane");
        self.changed += 1;
        self.note(|| Event::Confirmed {
            lane: waiting.lane,
            how,
        });
        self.note_if_ended();
        self.after_step();
        true
    }

    // ---- checkpoint ----

    /// A snapshot, if anything has changed since the last one that was saved.
    pub fn checkpoint(&mut self) -> Option<Snapshot> {
        if self.changed == self.saved {
            return None;
        }
        let watermark = self.move_watermark();
        self.former.drop_passed(watermark.as_ref());
        let mut lanes = vec![LaneTag {
            lane_function: LANE_FUNCTION_VERSION,
            marks: self
                .lanes
                .iter()
                .map(|lane| lane.marks.mark().cloned())
                .collect(),
        }];
        self.former.merge_into(&mut lanes);
        let checkpoint = Checkpoint {
            key: self.info.config.key.clone(),
            start: self.info.config.start,
            watermark,
            lanes,
            window: None,
            ended: self.is_ended(),
        };
        Some(Snapshot {
            version: self.changed,
            checkpoint,
        })
    }

    /// The store has a snapshot of this version.
    pub fn saved(&mut self, version: u64) {
        self.saved = self.saved.max(version.min(self.changed));
        self.note(|| Event::Saved { version });
    }

    /// The record before the lowest incomplete one. Never goes back.
    fn move_watermark(&mut self) -> Option<Position> {
        let fronts = self.lanes.iter().filter_map(|lane| {
            let run = lane.front()?;
            Some((self.buffer.ordinal(run.slot, run.start), Some(run), None))
        });
        let held = self.lanes.iter().filter_map(|lane| {
            let (ordinal, before) = lane.marks.held_back()?;
            Some((ordinal, None, before))
        });
        let position = match fronts.chain(held).min_by_key(|(ordinal, ..)| *ordinal) {
            None => self.last_taken_in.clone(),
            Some((_, Some(run), _)) => self.buffer.predecessor(run.slot, run.start),
            Some((_, None, before)) => before.cloned(),
        };
        if position > self.watermark {
            self.watermark = position;
        }
        self.watermark.clone()
    }

    /// Records from the lowest incomplete one to the last taken in.
    #[must_use]
    pub fn span(&self) -> u64 {
        let fronts = self.lanes.iter().filter_map(|lane| {
            let run = lane.front()?;
            Some(self.buffer.ordinal(run.slot, run.start))
        });
        let held = self
            .lanes
            .iter()
            .filter_map(|lane| lane.marks.held_back().map(|(ordinal, _)| ordinal));
        fronts
            .chain(held)
            .min()
            .map_or(0, |lowest| self.next_ordinal - lowest)
    }

    // ---- life cycle ----

    /// Hands out and fetches nothing more; batches in flight finish.
    pub fn pause(&mut self) {
        self.paused = true;
        self.note(|| Event::Paused);
    }

    /// Goes on after a pause or a drain.
    pub fn resume(&mut self, now: i64) {
        self.paused = false;
        self.draining = false;
        self.note(|| Event::Resumed);
        self.tick(now);
        self.after_step();
    }

    /// Fetches nothing more, and hands out what is held without waiting for batching windows.
    pub fn drain(&mut self, now: i64) {
        self.paused = false;
        self.draining = true;
        self.note(|| Event::Draining);
        self.refresh_waiting(now);
        self.after_step();
    }

    /// Changes the mapping's parameters. Buffered records are put into the lanes anew; their attempts are forgotten.
    ///
    /// # Errors
    ///
    /// A parameter is outside its range, or a batch is in flight or a discard unconfirmed: pause or drain first.
    pub fn update(&mut self, mapping: MappingConfig, now: i64) -> Result<(), UsageError> {
        mapping.validate()?;
        let in_flight = self.in_flight();
        if in_flight > 0 || !self.unconfirmed.is_empty() {
            let unconfirmed = self.unconfirmed.len();
            return Err(UsageError::Busy {
                in_flight,
                unconfirmed,
            });
        }
        let factor = mapping.parallelization_factor;
        let live: Vec<Run> = self.lanes.iter().flat_map(Lane::runs).copied().collect();
        let last_completion = self.lanes.iter().map(|lane| lane.last_completion).max();
        self.former.push(
            self.lanes
                .iter()
                .map(|lane| lane.marks.mark().cloned())
                .collect(),
        );
        self.info = Self::info(
            self.info.shard,
            ShardConfig {
                mapping,
                ..self.info.config.clone()
            },
        );
        self.limits = Self::limits(&self.info);
        self.lanes = (0..factor).map(|_| Lane::new()).collect();
        for runs in self.buffer.relane(&live, factor) {
            for (lane, run) in self.lanes.iter_mut().zip(runs) {
                lane.queue.push(run);
            }
        }
        for index in 0..self.lanes.len() {
            self.lanes[index].last_completion = last_completion.unwrap_or(i64::MIN);
            self.refresh(index, now);
        }
        self.changed += 1;
        self.note(|| Event::Updated {
            parallelization_factor: factor,
        });
        self.after_step();
        Ok(())
    }

    fn in_flight(&self) -> usize {
        let in_flight = |lane: &&Lane| matches!(lane.state, LaneState::InFlight(_));
        self.lanes.iter().filter(in_flight).count()
    }

    fn is_idle(&self) -> bool {
        self.buffer.live() == 0 && self.unconfirmed.is_empty()
    }

    fn is_ended(&self) -> bool {
        self.closed && self.is_idle()
    }

    /// Bytes of the pages held and of unconfirmed discards.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.buffer.bytes() + self.unconfirmed_bytes
    }

    /// The shard, at this moment.
    pub fn stats(&mut self) -> ShardStats {
        let watermark = self.move_watermark();
        let lanes = self.lanes.iter().map(|lane| LaneStats {
            state: lane.state,
            records: lane.runs().map(|run| u64::from(run.len())).sum(),
            attempts: lane
                .work
                .as_ref()
                .and_then(Work::top)
                .map_or(0, |top| top.attempts),
            first_sequence_number: lane.front().map(|run| {
                let slot = self.buffer.slot(run.slot);
                slot.leaf
                    .page
                    .sequence(to_usize(slot.index(run.start)))
                    .to_owned()
            }),
        });
        let state = match (self.is_ended(), self.draining, self.paused) {
            (true, ..) => ShardState::Ended,
            (_, true, _) if self.is_idle() => ShardState::Drained,
            (_, true, _) => ShardState::Draining,
            (.., true) => ShardState::Paused,
            _ => ShardState::Running,
        };
        ShardStats {
            state,
            held_records: self.buffer.live(),
            held_bytes: self.held_bytes(),
            span: self.span(),
            in_flight: self.in_flight(),
            unconfirmed_discards: self.unconfirmed.len(),
            watermark,
            last_taken_in: self.last_taken_in.clone(),
            millis_behind: self.millis_behind,
            counters: self.counters,
            lanes: lanes.collect(),
        }
    }

    /// Counts since the shard was made.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    // ---- trace and invariants ----

    /// Begins to keep a trace.
    pub fn enable_trace(&mut self) {
        self.trace.get_or_insert_default();
    }

    /// The trace since the last call.
    pub fn drain_trace(&mut self) -> Vec<Event> {
        self.trace.as_mut().map(std::mem::take).unwrap_or_default()
    }

    fn note(&mut self, event: impl FnOnce() -> Event) {
        if let Some(trace) = &mut self.trace {
            trace.push(event());
        }
    }

    fn note_if_ended(&mut self) {
        if self.trace.is_some() && self.is_ended() {
            self.note(|| Event::Ended);
        }
    }

    /// In debug builds every step ends with a look at the invariants.
    fn after_step(&mut self) {
        if cfg!(debug_assertions) {
            self.check_invariants();
        }
    }

    /// Verifies the invariants that a shard can see, counting everything anew. O(records held).
    ///
    /// # Panics
    ///
    /// One of them is broken; the message begins with its number.
    pub fn check_invariants(&mut self) {
        let live: Vec<Run> = self.lanes.iter().flat_map(Lane::runs).copied().collect();
        self.buffer.check(&live);
        let mapping = self.mapping().clone();
        assert!(
            self.in_flight() <= usize::from(mapping.parallelization_factor),
            "I4: one batch a lane"
        );
        let mut unconfirmed = 0;
        for (index, lane) in self.lanes.iter().enumerate() {
            let number = lane_number(index);
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
                    let hash = slot.leaf.page.key_hash(to_usize(record));
                    let own = self::lane(hash, mapping.parallelization_factor);
                    assert_eq!(own, number, "I4: a key is in one lane");
                }
            }
            if let Some(work) = &lane.work {
                work.check(&self.buffer);
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
                if matches!(lane.state, LaneState::InFlight(_)) {
                    let records = records(&self.buffer, &work.top_runs());
                    let mut event = Vec::new();
                    records.write_event(&self.info.template, &mut event);
                    assert!(
                        event.len() <= to_usize(mapping.payload_bytes_max),
                        "I4: at most the payload limit"
                    );
                }
            }
            let busy = matches!(lane.state, LaneState::InFlight(_) | LaneState::Parked(_));
            assert!(
                !busy || lane.work.is_some(),
                "I4: a lane that runs or is parked has a batch in work"
            );
            assert_eq!(
                lane.state == LaneState::Empty,
                lane.front().is_none(),
                "I1: a lane is empty when it has no records"
            );
            unconfirmed += lane.marks.unconfirmed();
        }
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
        let ended =
            counters.already_complete + counters.succeeded + counters.discarded + counters.expired;
        assert_eq!(
            counters.records,
            ended + self.buffer.live(),
            "I1: each record is live, succeeded, discarded, expired, or was complete before"
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
        assert!(
            self.span() <= SPAN_MAX + u64::from(u32::MAX),
            "I10: the span is bounded"
        );
    }
}

fn lane_number(index: usize) -> u8 {
    u8::try_from(index).expect("a shard has at most 10 lanes")
}

fn records(buffer: &Buffer, runs: &[Run]) -> Records {
    Records {
        len: runs.iter().map(|run| run.len()).sum(),
        slices: runs
            .iter()
            .map(|run| Slice {
                leaf: Arc::clone(&buffer.slot(run.slot).leaf),
                start: run.start,
                end: run.end,
            })
            .collect(),
    }
}

/// The same records in a page of their own.
fn detached(records: &Records) -> Records {
    let page = Page::gather(records.indices().map(|(leaf, index)| (&*leaf.page, index)));
    let leaf = Arc::new(Leaf::detached(page));
    Records {
        slices: vec![Slice {
            leaf,
            start: 0,
            end: records.len,
        }],
        len: records.len,
    }
}
