//! Handing out and finishing: which lane goes next, what an outcome does to its batch, what completes.

use std::sync::Arc;

use super::{Finished, Mode, Shard, Spare, Task, Unconfirmed};
use crate::batch::{Batch, Outcome, Response, Ticket};
use crate::buffer::to_usize;
use crate::config::{StreamClock, UNCONFIRMED_DISCARDS_MAX, UNCONFIRMED_DISCARDS_WINDOW_MAX};
use crate::discard::{Condition, Confirmation, Discard, DiscardId};
use crate::error::UsageError;
use crate::records::Records;
use crate::retry::{Fate, Frame, Work};
use crate::stats::LaneState;
use crate::trace::Event;
use crate::window::ReturnedState;

impl Shard {
    // ---- batches ----

    /// Whether `take` would give something.
    #[must_use]
    pub(crate) fn is_ready(&self) -> bool {
        self.ready_count() > 0
    }

    /// How many things `take` could give now.
    #[must_use]
    pub(crate) fn ready_count(&self) -> usize {
        let ready = self.heads.ready();
        let lanes = if ready > 0 && self.may_hand_out() {
            ready
        } else {
            0
        };
        self.outbox.len() + lanes
    }

    /// Whether the next thing that `take` gives is a discard.
    #[must_use]
    pub(crate) fn has_discards(&self) -> bool {
        !self.outbox.is_empty()
    }

    fn may_hand_out(&self) -> bool {
        let unsaved = self.info.config.sync_checkpoints && self.saved < self.changed;
        let unconfirmed_max = match self.window {
            Some(_) => UNCONFIRMED_DISCARDS_WINDOW_MAX,
            None => UNCONFIRMED_DISCARDS_MAX,
        };
        self.mode != Mode::Paused && !unsaved && self.unconfirmed.len() < unconfirmed_max
    }

    /// The instant at which a lane becomes ready by itself, or records of stuck lanes go on moving.
    #[must_use]
    pub(crate) fn next_wake(&self) -> Option<i64> {
        let lanes = self.heads.next_wake();
        match self.relief_at {
            Some(at) => Some(lanes.map_or(at, |lane| lane.min(at))),
            None => lanes,
        }
    }

    /// Lets time pass: lanes whose wait is over become ready.
    pub(crate) fn tick(&mut self, now: i64) {
        for index in self.heads.waking() {
            match self.heads[index].state {
                LaneState::Waiting(until) if until <= now => self.refresh(index, now),
                LaneState::Parked(until) if until <= now => {
                    self.heads.set_state(index, LaneState::Ready);
                }
                _ => {}
            }
        }
        self.refresh_window(now);
        if self.relief_at.is_some_and(|at| at <= now) {
            self.relieve(now);
            self.after_step();
        }
    }

    /// The next thing to do, or None; for a batch the lane that has handed it out, which nobody shares yet. Never waits. Call
    /// [`Self::tick`] first.
    pub(crate) fn take(&mut self, now: i64) -> Option<Task<usize>> {
        loop {
            if let Some(discard) = self.outbox.pop_front() {
                return Some(Task::Deliver(Box::new(discard)));
            }
            if !self.may_hand_out() {
                return None;
            }
            let lane = self.heads.oldest_ready()?;
            if self.lanes[lane].work.is_none() {
                self.cut(lane, now);
            }
            if self.lanes[lane].work.is_none() {
                continue;
            }
            if self.is_settled(lane) || self.settles_to_hand_out(lane, now) {
                self.hand_out(lane, now);
                self.after_step();
                return Some(Task::Run(lane));
            }
            self.note_if_ended();
            self.after_step();
        }
    }

    /// Whether time changes nothing of a batch that is ready: neither its age nor a window is looked at.
    fn is_settled(&self, index: usize) -> bool {
        let work = self.lanes[index].work.as_ref();
        let plain = work.is_some_and(|work| {
            work.window.is_none() && work.top().is_some_and(|top| top.fate == Fate::Invoke)
        });
        plain && self.window.is_none() && self.age_limit().is_none()
    }

    fn settles_to_hand_out(&mut self, index: usize, now: i64) -> bool {
        self.settle(index, now);
        // What expired just now may have to be saved first.
        self.outbox.is_empty()
            && self.may_hand_out()
            && self.heads[index].state == LaneState::Ready
            && self.lanes[index].work.is_some()
    }

    fn cut(&mut self, index: usize, now: i64) {
        if self.closes_window(index, now) {
            let serial = self.serial();
            let due = self.stream_now(now);
            self.lanes[index].work = Some(Work::closing(serial, due));
            return;
        }
        if self.lanes[index].queue.front().is_none() {
            // The window was to be closed, and is not any more.
            self.refresh(index, now);
            return;
        }
        let (serial, limits) = (self.serial(), self.limits());
        let lane = &mut self.lanes[index];
        lane.queue.fill(&self.buffer, &limits);
        let work = lane.work.insert(Work::default());
        work.begin(&mut lane.queue, &limits, serial);
        lane.moved_on = self.batches_ended;
    }

    pub(super) fn serial(&mut self) -> u64 {
        self.next_serial += 1;
        self.next_serial
    }

    fn hand_out(&mut self, index: usize, now: i64) {
        let number = lane_number(index);
        let ticket = Ticket::new(self.info.shard, number, self.serial());
        self.open_window(index);
        let window = self.window_of(index);
        let work = self.lanes[index].work.as_ref();
        let work = work.expect("a lane that hands out has a batch in work");
        if self.info.config.clock == StreamClock::Replay {
            let records = self.buffer.records(work.top_runs());
            let latest = records.map(|record| record.arrival_ms()).max();
            self.replay_now = self.replay_now.max(latest.unwrap_or(i64::MIN));
        }
        // Known of a batch that was cut from the queue; of a part of one it is added up once.
        if self.top(index).bytes.is_none() {
            let records = Records::of_work(&self.buffer, work);
            let bytes = u32::try_from(records.bytes(&self.info.template));
            self.work(index)
                .top_mut()
                .expect("a batch in work has a frame")
                .bytes = Some(bytes.unwrap_or(u32::MAX));
        }
        self.count_sent(index, window.as_ref(), now);
        self.heads
            .set_state(index, LaneState::InFlight(ticket.serial()));
        if self.trace.is_some() {
            let mut spare = Spare::default();
            let batch = self.share(index, &mut spare);
            self.note(|| handed_out(number, &batch));
            self.lanes[index].shared = None;
        }
    }

    /// See [`Engine::finish`](crate::Engine::finish).
    pub(crate) fn finish(
        &mut self,
        ticket: Ticket,
        outcome: Outcome,
        returned: Option<ReturnedState>,
        now: i64,
        spare: &mut Spare,
    ) -> Result<Finished, UsageError> {
        let index = usize::from(ticket.lane());
        let Some(lane) = self.lanes.get(index) else {
            return Err(UsageError::NotInFlight);
        };
        if self.heads[index].state != LaneState::InFlight(ticket.serial()) {
            return Err(UsageError::NotInFlight);
        }
        let records = lane.work.as_ref().and_then(Work::top).map_or(0, Frame::len);
        if let Outcome::Partial { index, .. } = outcome
            && index >= records
        {
            return Err(UsageError::NoSuchRecord { index, records });
        }
        if let Some(returned) = &returned {
            self.check_returned(index, returned)?;
        }
        self.heads.set_state(index, LaneState::Ready);
        spare.keep(self.lanes[index].shared.take());
        self.batches_ended += 1;
        self.count_finished(index, &outcome, records, now);
        match outcome {
            Outcome::Success => {
                self.keep_state(index, returned);
                self.succeed(index, records, now);
            }
            Outcome::Partial { index: 0, response } | Outcome::Failure(response) => {
                self.fail(index, response, now);
            }
            Outcome::Partial { index: done, .. } => {
                self.note(|| Event::Split {
                    lane: lane_number(index),
                    at: done,
                    records,
                });
                self.keep_state(index, returned);
                let serial = self.serial();
                self.work(index).advance(done, serial);
                self.complete(index, done);
                self.counters.succeeded += u64::from(done);
                self.note(|| Event::Succeeded {
                    lane: lane_number(index),
                    records: done,
                });
                self.settle(index, now);
            }
            Outcome::TooLarge { request_id } => self.refuse(index, request_id, now),
            Outcome::Throttled => {
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
        if !self.heads.are_free() || self.buffer.has_stuck() {
            self.relieve(now);
        }
        self.note_if_ended();
        self.after_step();
        let mut finished = Finished::default();
        if self.has_discards() {
            finished.discards.extend(self.outbox.drain(..));
        }
        Ok(finished)
    }

    pub(super) fn work(&mut self, index: usize) -> &mut Work {
        self.lanes[index]
            .work
            .as_mut()
            .expect("a lane with a batch in flight has it in work")
    }

    pub(super) fn top(&self, index: usize) -> &Frame {
        let work = self.lanes[index].work.as_ref();
        work.and_then(Work::top)
            .expect("a batch in work has a frame")
    }

    fn succeed(&mut self, index: usize, records: u32, now: i64) {
        let frame = self.work(index).pop();
        self.counters.succeeded += u64::from(records);
        self.note(|| Event::Succeeded {
            lane: lane_number(index),
            records,
        });
        if frame.closing.is_some() {
            self.close_window();
        }
        self.complete(index, records);
        self.settle(index, now);
    }

    fn fail(&mut self, index: usize, response: Box<Response>, now: i64) {
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
            self.split(index, records / 2, records);
        } else {
            self.retry_or_discard(index, now);
        }
    }

    /// The service refused the event of the top frame as too large: what is sent next is smaller, or nothing.
    fn refuse(&mut self, index: usize, request_id: Option<String>, now: i64) {
        let len = self.top(index).len();
        self.note(|| Event::TooLarge {
            lane: lane_number(index),
            records: len,
        });
        if self.split_by_age(index, now) {
            self.settle(index, now);
        } else if len > 1 {
            let work = self.lanes[index].work.as_ref();
            let work = work.expect("a batch in work");
            let at = Records::of_work(&self.buffer, work).half_by_bytes(&self.info.template);
            self.split(index, at, len);
        } else {
            let top = self
                .work(index)
                .top_mut()
                .expect("a batch in work has a frame");
            top.fate = Fate::Oversized;
            top.throttles = 0;
            // Of what the service said, a discard tells the id alone.
            top.response = Some(Box::new(Response {
                request_id,
                ..Response::default()
            }));
            self.try_oversized(index, now);
        }
    }

    /// Cuts the top frame in two; the first `at` of its records go first.
    pub(super) fn split(&mut self, index: usize, at: u32, records: u32) {
        let (left, right) = (self.serial(), self.serial());
        self.work(index).cut(at, left, right);
        self.note(|| Event::Split {
            lane: lane_number(index),
            at,
            records,
        });
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
            self.end_early(index, now);
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
                    if self.split_by_age(index, now) || self.split_to_fit(index) {
                        continue;
                    }
                    if fate == Fate::Oversized && self.heads[index].state == LaneState::Ready {
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
        // A closing call has no record.
        let sequence = self.lanes[index].front().map_or_else(String::new, |run| {
            let slot = self.buffer.slot(run.slot);
            let page = &slot.leaf.page;
            page.record(to_usize(slot.index(run.start)))
                .sequence()
                .to_owned()
        });
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
            let records = Records::of_work(&self.buffer, work);
            let closing = work.top().and_then(|top| top.closing);
            let oldest = closing.or_else(|| records.iter().map(|record| record.arrival_ms()).min());
            until = until.min(oldest.map_or(until, |arrival| {
                arrival.saturating_add(limit.0.saturating_add(1))
            }));
        }
        self.heads.set_state(index, LaneState::Parked(until));
        self.note(|| Event::Parked {
            lane: lane_number(index),
            until,
        });
    }

    /// A lane without a batch in work: empty, waiting for its batching window, or ready.
    pub(super) fn refresh(&mut self, index: usize, now: i64) {
        let state = match self.window_wait(index, now) {
            Some(state) => state,
            None => self.queue_wait(index, now),
        };
        self.heads.set_state(index, state);
    }

    /// What a lane that has no batch in work does because of its records.
    fn queue_wait(&mut self, index: usize, now: i64) -> LaneState {
        let Some(front) = self.lanes[index].queue.front().copied() else {
            return LaneState::Empty;
        };
        let window = self.mapping().batching_window_ms;
        if window == 0 || self.closed || self.mode == Mode::Draining || self.starved {
            return LaneState::Ready;
        }
        let limits = self.limits();
        let lane = &mut self.lanes[index];
        if lane.queue.fill(&self.buffer, &limits) {
            return LaneState::Ready;
        }
        let slot = self.buffer.slot(front.slot);
        let record = slot.index(front.start);
        let mut until = lane
            .last_completion
            .max(slot.leaf.offered_at(record))
            .saturating_add(window);
        if let Some((limit, _)) = self.age_limit()
            && self.info.config.clock == StreamClock::Wall
        {
            let arrival = slot.leaf.page.arrival_ms(to_usize(record));
            until = until.min(arrival.saturating_add(limit.saturating_add(1)));
        }
        if until <= now {
            LaneState::Ready
        } else {
            LaneState::Waiting(until)
        }
    }

    pub(super) fn refresh_waiting(&mut self, now: i64) {
        for index in self.heads.waking() {
            if matches!(self.heads[index].state, LaneState::Waiting(_)) {
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

    /// What time it is for age and retention.
    pub(super) fn stream_now(&self, now: i64) -> i64 {
        match self.info.config.clock {
            StreamClock::Wall => now,
            StreamClock::Replay => self.replay_now,
        }
    }

    /// Cuts the top frame where records are too old. The age of a closing call counts from when it was due. False if none is.
    fn split_by_age(&mut self, index: usize, now: i64) -> bool {
        let Some((limit, fate)) = self.age_limit() else {
            return false;
        };
        let now = self.stream_now(now);
        let work = self.lanes[index]
            .work
            .as_ref()
            .expect("only a batch in work has an age");
        let top = work.top().expect("a batch in work has a frame");
        let own = top.fate;
        if let Some(due) = top.closing {
            let stale = now.saturating_sub(due) > limit;
            if let Some(top) = self.work(index).top_mut().filter(|_| stale) {
                top.fate = fate;
            }
            return stale;
        }
        let records = Records::of_work(&self.buffer, work);
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
        let window = self.window_of(index);
        let frame = self.work(index).pop();
        let work = self.lanes[index].work.iter();
        let runs = work.flat_map(|work| work.first_runs(frame.len()));
        let live = Records::of(&self.buffer, runs);
        let (records, bytes) = live.detached();
        // A closing call holds back what comes behind it.
        let front = self.lanes[index].front();
        let (first_ordinal, before) = match front {
            Some(run) => (
                self.buffer.ordinal(run.slot, run.start),
                self.buffer.predecessor(run.slot, run.start),
            ),
            None => (self.next_ordinal, self.last_taken_in.clone()),
        };
        let request_id = frame
            .response
            .as_ref()
            .and_then(|response| response.request_id.clone())
            .unwrap_or_else(|| self.chance.request_id(frame.serial).text());
        let id = DiscardId(Ticket::new(self.info.shard, number, serial));
        let serial = id.0.serial();
        let discard = Discard {
            id,
            condition,
            invoke_count: frame.attempts.max(1),
            request_id,
            // No function answers for records that are too old or too large.
            response: frame.response.filter(|_| {
                condition == Condition::RetryAttemptsExhausted && frame.fate != Fate::Oversized
            }),
            at_ms: now,
            info: Arc::clone(&self.info),
            records,
            window,
        };
        self.note(|| discarded(number, &discard));
        if frame.closing.is_some() {
            self.close_window();
        }
        let len = frame.end - frame.start;
        self.counters.discarded += u64::from(len);
        self.counters.discards += 1;
        let work = self.lanes[index].work.as_ref();
        let last = work.and_then(|work| work.last_of_first(len));
        let last = last.map(|run| {
            let slot = self.buffer.slot(run.slot);
            slot.leaf.page.position(to_usize(slot.index(run.end - 1)))
        });
        self.lanes[index]
            .marks
            .discard(serial, first_ordinal, before, last, self.window.clone());
        self.unconfirmed.insert(
            serial,
            Unconfirmed {
                lane: number,
                bytes,
            },
        );
        self.unconfirmed_bytes += bytes;
        self.outbox.push_back(discard);
        self.free(index, len);
    }

    /// The runs of the top frame are passed over: the stream no longer keeps them.
    fn expire(&mut self, index: usize) {
        let frame = self.work(index).pop();
        self.counters.expired += u64::from(frame.end - frame.start);
        self.note(|| Event::Expired {
            lane: lane_number(index),
            records: frame.end - frame.start,
        });
        if frame.closing.is_some() {
            self.close_window();
        }
        self.complete(index, frame.len());
    }

    /// The first records of the batch in work are complete; none are for a closing call.
    fn complete(&mut self, index: usize, records: u32) {
        let lane = &mut self.lanes[index];
        let work = lane.work.as_ref();
        let last = work.and_then(|work| work.last_of_first(records));
        let last = last.map(|run| {
            let leaf = &self.buffer.slot(run.slot).leaf;
            (leaf, leaf.order()[to_usize(run.end - 1)])
        });
        let same = || {
            let newest = last.filter(|(leaf, index)| leaf.ordinal(*index) + 1 == self.next_ordinal);
            newest.and_then(|_| self.last_taken_in.clone())
        };
        let last = last.map(|(leaf, index)| {
            let at = to_usize(index);
            (leaf.page.sequence(at), leaf.page.sub(at))
        });
        lane.marks.complete(last, same, self.window.clone());
        self.free(index, records);
    }

    /// The first records of the batch in work go.
    fn free(&mut self, index: usize, mut records: u32) {
        self.changed += 1;
        let lane = &mut self.lanes[index];
        lane.moved_on = self.batches_ended;
        while records > 0
            && let Some(work) = &mut lane.work
        {
            let run = work.complete(records);
            records -= run.len();
            let next = work.front().or_else(|| lane.queue.front());
            let left = next.is_none_or(|next| next.slot != run.slot);
            self.buffer
                .complete(run, left.then_some(lane_number(index)));
        }
        self.find_first(index);
    }

    /// A discard has reached its destination, or is given up: the checkpoint may pass it. False if it was confirmed before.
    pub(crate) fn confirm(&mut self, id: DiscardId, how: Confirmation) -> bool {
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
}

pub(super) fn lane_number(index: usize) -> u8 {
    u8::try_from(index).expect("a shard has at most 10 lanes")
}

fn handed_out(lane: u8, batch: &Batch) -> Event {
    let (attempt, request_id) = (batch.attempt(), batch.request_id());
    let own = batch.records();
    match (batch.window(), own.first(), own.last()) {
        (_, Some(first), Some(last)) => Event::HandedOut {
            lane,
            first: first.sequence().to_owned(),
            last: last.sequence().to_owned(),
            records: own.len,
            attempt,
            request_id,
        },
        (Some(window), ..) => Event::Closing {
            start_ms: window.start_ms(),
            end_ms: window.end_ms(),
            early: window.is_terminated_early(),
            attempt,
            request_id,
        },
        (None, ..) => unreachable!("I7: only the closing call of a window has no records"),
    }
}

fn discarded(lane: u8, discard: &Discard) -> Event {
    let (condition, invoke_count) = (discard.condition, discard.invoke_count);
    let own = discard.records();
    match (&discard.window, own.first(), own.last()) {
        (_, Some(first), Some(last)) => Event::Discarded {
            lane,
            condition,
            first: first.sequence().to_owned(),
            last: last.sequence().to_owned(),
            records: own.len,
            invoke_count,
        },
        (Some(window), ..) => Event::ClosingDiscarded {
            start_ms: window.start_ms(),
            end_ms: window.end_ms(),
            condition,
            invoke_count,
        },
        (None, ..) => unreachable!("I7: only the closing call of a window has no records"),
    }
}
