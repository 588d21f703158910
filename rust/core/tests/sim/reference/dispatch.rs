//! Batches of the reference: what is cut, handed out, tried again and given up.

use streamcore::{Batch, Condition, ENVELOPE_BYTES, Outcome, StreamClock};

use super::windows::Due;
use super::{Expected, Fate, Frame, GivenUp, Reference};

impl Reference {
    /// The limit that ends a record, the smaller one of age and retention.
    pub(super) fn limit(&self) -> Option<(i64, Fate)> {
        let age = self.mapping.record_age_max_ms.map(|age| (age, Fate::Aged));
        let retention = self
            .retention_ms
            .map(|retention| (retention, Fate::Expired));
        age.into_iter()
            .chain(retention)
            .min_by_key(|(limit, _)| *limit)
    }

    pub(super) fn stale(&self, record: usize, now: i64) -> Option<Fate> {
        self.stale_since(self.arrival(record), now)
    }

    fn stale_since(&self, instant: i64, now: i64) -> Option<Fate> {
        let (limit, fate) = self.limit()?;
        (self.stream_now(now).saturating_sub(instant) > limit).then_some(fate)
    }

    pub(super) fn event_bytes<'a>(&self, records: impl Iterator<Item = &'a usize>) -> usize {
        let mut bytes = usize::try_from(ENVELOPE_BYTES).unwrap();
        for (nth, record) in records.enumerate() {
            bytes += self.log.entries[*record].json.len() + usize::from(nth > 0);
        }
        bytes
    }

    /// The next batch of waiting records: its frame, and whether no further record could join it.
    pub(super) fn cut(&self, index: usize) -> (Frame, bool, bool) {
        let pending = &self.lanes[index].pending;
        let max = usize::try_from(self.mapping.payload_bytes_max).unwrap();
        let size = usize::try_from(self.mapping.batch_size).unwrap();
        let bounds = self.bounds_of(pending[0]);
        let around = self.bytes_around(bounds);
        let fits = |len: &usize| around + self.event_bytes(pending.iter().take(*len)) <= max;
        let inside =
            |record: &&usize| bounds.is_none_or(|bounds| self.arrival(**record) < bounds.end_ms);
        let available = pending.iter().take_while(inside).count();
        let len = (1..=size.min(available))
            .take_while(fits)
            .last()
            .unwrap_or(0);
        if len == 0 {
            return (
                Frame {
                    fate: Fate::Oversized,
                    ..Frame::new(1)
                },
                true,
                false,
            );
        }
        let by_bytes = len < size && len < available;
        let by_window = len == available && available < pending.len();
        (
            Frame::new(len),
            len == size || by_bytes || by_window,
            by_bytes,
        )
    }

    /// The engine turns to a lane: a batch is cut if none is in work, and what is too old leaves it. True if the payload limit cut it.
    pub(super) fn turn_to(&mut self, index: usize, now: i64) -> bool {
        let mut by_bytes = false;
        if self.lanes[index].stack.is_empty() && matches!(self.closing_due(now), Due::Now) {
            let frame = self.closing_frame(now);
            self.lanes[index].window = None;
            self.lanes[index].stack.push(frame);
        }
        if self.lanes[index].stack.is_empty() {
            assert!(
                !self.lanes[index].pending.is_empty(),
                "I1: lane {index} has no record to work on"
            );
            let (frame, full, bytes) = self.cut(index);
            by_bytes = bytes;
            let first = self.lanes[index].pending[0];
            let early = full || self.loose || self.mapping.batching_window_ms == 0;
            let fresh = self.lanes[index]
                .pending
                .iter()
                .take(frame.len)
                .all(|record| self.stale(*record, now).is_none());
            if !early && fresh {
                let begin = self.lanes[index]
                    .last_completion
                    .unwrap_or(i64::MIN)
                    .max(self.offered_at[first]);
                assert!(
                    now >= begin + self.mapping.batching_window_ms,
                    "the batching window of lane {index} is open until {}, now is {now}",
                    begin + self.mapping.batching_window_ms
                );
            }
            self.lanes[index].window = self.bounds_of(first);
            self.lanes[index].stack.push(frame);
        }
        self.settle(index, now);
        by_bytes
    }

    pub(super) fn settle(&mut self, index: usize, now: i64) {
        loop {
            self.end_early(index, now);
            let Some(top) = self.lanes[index].stack.last() else {
                self.lanes[index].last_completion = Some(now);
                return;
            };
            match top.fate {
                Fate::Aged => self.give_up(index, Condition::RecordAgeExceeded),
                Fate::Expired => {
                    let frame = self.lanes[index].stack.pop().unwrap();
                    let records = self.complete(index, frame.len);
                    self.step(None, frame.closing.is_some(), true, records);
                    self.lanes[index]
                        .expected
                        .push_back(Expected::Expired(frame.len));
                }
                Fate::Invoke | Fate::Oversized => {
                    if self.split_by_age(index, now) {
                        continue;
                    }
                    let lane = &mut self.lanes[index];
                    let top = lane.stack.last_mut().unwrap();
                    if top.fate == Fate::Invoke {
                        return;
                    }
                    assert!(
                        now >= top.not_before,
                        "a record too large is tried again before its pause is over"
                    );
                    top.attempts += 1;
                    let attempts = top.attempts;
                    let record = lane.pending.front().copied();
                    lane.expected
                        .push_back(Expected::Oversized(attempts, record));
                    if !self.retry(index, now) {
                        continue;
                    }
                    return;
                }
            }
        }
    }

    /// The top frame's event is too large for the service: its first half, by bytes, goes before the rest; one record is tried no more.
    fn refused(&mut self, index: usize, request_id: Option<String>, now: i64) {
        let lane = &self.lanes[index];
        let len = lane.stack.last().unwrap().len;
        let records: Vec<usize> = lane.pending.iter().take(len).copied().collect();
        assert!(
            records.is_empty() || self.refused.insert(records.clone()),
            "{records:?} were sent again after they had been refused"
        );
        if self.split_by_age(index, now) {
            self.settle(index, now);
        } else if len > 1 {
            let larger = |front: &usize| {
                let (left, right) = records.split_at(*front);
                self.event_bytes(left.iter())
                    .max(self.event_bytes(right.iter()))
            };
            let front = (1..len).min_by_key(larger).unwrap();
            let stack = &mut self.lanes[index].stack;
            stack.pop();
            stack.push(Frame::new(len - front));
            stack.push(Frame::new(front));
        } else {
            let top = self.lanes[index].stack.last_mut().unwrap();
            top.fate = Fate::Oversized;
            top.attempts += 1;
            top.throttles = 0;
            top.response = None;
            top.request_id = request_id.or(top.request_id.take());
            let attempts = top.attempts;
            let lane = &mut self.lanes[index];
            lane.expected
                .push_back(Expected::Oversized(attempts, lane.pending.front().copied()));
            if !self.retry(index, now) {
                self.settle(index, now);
            }
        }
    }

    /// The top frame has failed once more. False if it was given up.
    pub(super) fn retry(&mut self, index: usize, now: i64) -> bool {
        let top = self.lanes[index].stack.last_mut().unwrap();
        if self
            .mapping
            .retry_attempts_max
            .is_some_and(|max| top.attempts == max + 1)
        {
            self.give_up(index, Condition::RetryAttemptsExhausted);
            return false;
        }
        top.pause(top.attempts, now);
        true
    }

    pub(super) fn split_by_age(&mut self, index: usize, now: i64) -> bool {
        let top = self.lanes[index].stack.last().unwrap().clone();
        if let Some(due) = top.closing {
            let stale = self.stale_since(due, now);
            let top = self.lanes[index].stack.last_mut().unwrap();
            top.fate = stale.unwrap_or(top.fate);
            return stale.is_some();
        }
        let fates: Vec<Fate> = self.lanes[index]
            .pending
            .iter()
            .take(top.len)
            .map(|record| self.stale(*record, now).unwrap_or(top.fate))
            .collect();
        if fates.iter().all(|fate| *fate == top.fate) {
            return false;
        }
        let stack = &mut self.lanes[index].stack;
        stack.pop();
        for range in fates
            .chunk_by(|a, b| a == b)
            .collect::<Vec<_>>()
            .into_iter()
            .rev()
        {
            stack.push(if range[0] == Fate::Invoke {
                Frame::new(range.len())
            } else {
                Frame {
                    len: range.len(),
                    fate: range[0],
                    ..top.clone()
                }
            });
        }
        true
    }

    pub(super) fn give_up(&mut self, index: usize, condition: Condition) {
        let window = self.window_of(&self.lanes[index]);
        let frame = self.lanes[index].stack.pop().unwrap();
        let records = self.complete(index, frame.len);
        self.given_up += 1;
        self.step(
            Some(self.given_up),
            frame.closing.is_some(),
            true,
            records.clone(),
        );
        let next = self.lanes[index].pending.front().copied();
        let first = records.first().copied().or(next).unwrap_or(self.taken_in);
        self.lanes[index]
            .expected
            .push_back(Expected::Discard(GivenUp {
                condition,
                records,
                first,
                window,
                invoke_count: frame.attempts.max(1),
                request_id: frame.request_id,
                response: frame
                    .response
                    .filter(|_| condition == Condition::RetryAttemptsExhausted),
            }));
    }

    /// The first `len` records of a lane are complete for order.
    pub(super) fn complete(&mut self, index: usize, len: usize) -> Vec<usize> {
        let records: Vec<usize> = self.lanes[index].pending.drain(..len).collect();
        for record in &records {
            assert!(
                !self.done[*record],
                "I1: record {record} ends once in a run"
            );
            self.done[*record] = true;
            self.end(*record);
        }
        self.changes += 1;
        records
    }

    /// A record has ended, in this run or in one whose results were never seen.
    pub(super) fn end(&mut self, record: usize) {
        self.ended[record] = true;
        let (ended, records) = self
            .by_key
            .get_mut(&self.log.entries[record].key_hash)
            .unwrap();
        while records
            .get(*ended)
            .is_some_and(|record| self.ended[*record])
        {
            *ended += 1;
        }
        assert!(
            self.place[record] < *ended,
            "I3: record {record} ended before an earlier one of its key"
        );
    }

    /// The function succeeded with these, and nobody saw it.
    pub(crate) fn unseen_success(&mut self, records: &[usize]) {
        for record in records {
            self.end(*record);
        }
    }

    pub(super) fn handed_out(
        &mut self,
        batch: &Batch,
        whole: bool,
        now: i64,
    ) -> (Vec<usize>, bool) {
        assert!(
            !self.holds_back(),
            "a batch was handed out before the last completion was saved"
        );
        let records: Vec<usize> = batch
            .records()
            .iter()
            .map(|record| self.log.find(record.sequence(), record.sub()))
            .collect();
        let index = records.first().map_or(0, |first| self.lane_of(*first));
        assert!(
            !self.lanes[index].in_flight,
            "I4: lane {index} has a batch in flight already"
        );
        assert!(self.lanes[index].expected.is_empty());
        let turned = self
            .turned
            .filter(|(lane, _)| *lane == index && !self.lanes[index].stack.is_empty());
        let first = turned.map(|(_, first)| first).or(records.first().copied());
        let by_bytes = self.turn_to(index, now);
        assert!(
            self.lanes[index].expected.is_empty(),
            "lane {index} must first tell {:?}",
            self.lanes[index].expected
        );
        let Some(top) = self.lanes[index].stack.last() else {
            panic!("lane {index} has nothing to hand out")
        };
        let next: Vec<usize> = self.lanes[index]
            .pending
            .iter()
            .take(top.len)
            .copied()
            .collect();
        assert_eq!(records, next, "I6: the next batch of lane {index}");
        let own = self.window_of(&self.lanes[index]);
        Self::compare_window(batch.window(), own.as_ref());
        assert_eq!(
            batch.attempt(),
            top.attempts + 1,
            "I5: the attempt of the batch"
        );
        assert!(
            now >= top.not_before,
            "a batch is tried again at {now}, before {}",
            top.not_before
        );
        match &top.request_id {
            Some(own) => assert_eq!(batch.request_id(), *own, "I6: a retry keeps its request id"),
            None => assert!(
                self.request_ids.insert(batch.request_id()),
                "I6: a new batch has a request id of its own"
            ),
        }
        for record in &records {
            assert_eq!(self.lane_of(*record), index, "I4: a batch is of one lane");
            assert_eq!(
                self.stale(*record, now),
                None,
                "record {record} is too old to be handed out"
            );
        }
        self.check_batch(batch, &records, whole);
        if let Some(first) = first {
            self.check_oldest_first(index, first);
        }
        if let Some(bounds) = self.lanes[index].window.filter(|_| !records.is_empty()) {
            self.open_window(bounds);
        }
        for record in &records {
            self.replay_now = self.replay_now.max(self.log.entries[*record].arrival_ms);
        }
        let top = self.lanes[index].stack.last_mut().unwrap();
        top.request_id = Some(batch.request_id());
        self.lanes[index].in_flight = true;
        assert!(
            self.in_flight() <= self.mapping.parallelization_factor.into(),
            "I4: at most ParallelizationFactor"
        );
        (records, by_bytes)
    }

    /// A batch reads as these records of the log: their ordinals, hashes and sizes, and with `whole` each byte of its event.
    pub(crate) fn check_batch(&self, batch: &Batch, records: &[usize], whole: bool) {
        let read = batch.records();
        assert_eq!(read.len(), records.len(), "the records of a batch");
        for ((ordinal, key_hash, _), record) in read.numbered().zip(records) {
            let own = u64::try_from(record - self.began_at).unwrap();
            assert_eq!(ordinal, own, "the ordinal of record {record}");
            assert_eq!(key_hash, self.log.entries[*record].key_hash);
        }
        let (around, bytes) = Self::around(batch);
        let bytes = bytes + self.event_bytes(records.iter());
        assert_eq!(batch.json_bytes(), bytes, "I4: the bytes of the event");
        assert!(
            bytes <= usize::try_from(self.mapping.payload_bytes_max).unwrap(),
            "I4: the payload limit"
        );
        if whole {
            let parts: Vec<&str> = records
                .iter()
                .map(|record| &*self.log.entries[*record].json)
                .collect();
            let event = format!(r#"{{"Records":[{}]{around}}}"#, parts.join(","));
            assert_eq!(String::from_utf8_lossy(&batch.json()), event, "the event");
        }
    }

    /// Of the lanes that could surely hand out, the chosen one had the oldest record when the engine turned to it.
    pub(super) fn check_oldest_first(&self, index: usize, first: usize) {
        if self.mapping.batching_window_ms > 0 {
            return;
        }
        for (other, lane) in self.lanes.iter().enumerate() {
            let parked = lane
                .stack
                .last()
                .is_some_and(|top| top.not_before > i64::MIN);
            if let Some(waiting) = lane.pending.front()
                && other != index
                && !parked
                && !lane.in_flight
            {
                assert!(
                    first < *waiting,
                    "the oldest lane goes first: {waiting} of lane {other} was ready"
                );
            }
        }
    }

    /// When the first of the next `len` records of a lane becomes too old, if that is known beforehand.
    pub(super) fn ages_at(&self, index: usize, len: usize) -> Option<i64> {
        let (limit, _) = self.limit().filter(|_| self.clock == StreamClock::Wall)?;
        let records = self.lanes[index].pending.iter().take(len);
        let oldest = records
            .map(|record| self.log.entries[*record].arrival_ms)
            .min()?;
        Some(oldest + limit + 1)
    }

    /// The engine says that nothing may run before `until`: no lane may be due by then.
    pub(crate) fn waits(&self, until: Option<i64>, open: bool, now: i64) {
        // So that the states that wait are not too many, a shard with windows takes 100 unconfirmed discards.
        if self.holds_back() || self.windows.held.is_some() && self.unconfirmed.len() >= 100 {
            return;
        }
        for (index, lane) in self.lanes.iter().enumerate() {
            let first = lane.pending.front();
            let due = match (lane.stack.last(), self.closing_due(now)) {
                _ if lane.in_flight => continue,
                (Some(top), _) => top.not_after,
                (None, Due::At(at)) => at,
                (None, Due::No) if first.is_none() => continue,
                (None, Due::No)
                    if open && self.mapping.batching_window_ms > 0 && !self.cut(index).1 =>
                {
                    let begin = lane.last_completion.unwrap_or(i64::MIN);
                    begin.max(self.offered_at[*first.unwrap()]) + self.mapping.batching_window_ms
                }
                (None, _) => i64::MIN,
            };
            let tried = lane.stack.last().map_or(1, |top| top.len);
            let closing = lane.stack.last().and_then(|top| top.closing);
            let ages_at = match (closing, self.limit()) {
                (Some(since), Some((limit, _))) if self.clock == StreamClock::Wall => {
                    Some(since + limit + 1)
                }
                (Some(_), _) => None,
                (None, _) => self.ages_at(index, tried),
            };
            let due = ages_at.map_or(due, |at| at.min(due));
            assert!(
                now < due,
                "I11: lane {index} was due at {due}, now is {now}"
            );
            assert!(
                until.is_some_and(|until| until <= due),
                "I11: lane {index} is due at {due}, the engine wakes at {until:?}"
            );
        }
    }

    /// `ends` says that the function has ended the window early.
    pub(crate) fn finished(&mut self, records: &[usize], outcome: &Outcome, ends: bool, now: i64) {
        let index = records.first().map_or(0, |first| self.lane_of(*first));
        let lane = &mut self.lanes[index];
        assert!(std::mem::take(&mut lane.in_flight));
        let top = lane.stack.last_mut().unwrap();
        match outcome {
            Outcome::Success => {
                let frame = lane.stack.pop().unwrap();
                if frame.closing.is_none() {
                    self.keep_state(index, frame.len, ends);
                }
                let records = self.complete(index, frame.len);
                self.step(None, frame.closing.is_some(), false, records);
                self.settle(index, now);
            }
            Outcome::Partial { index: done, .. } if *done > 0 => {
                let done = usize::try_from(*done).unwrap();
                *top = Frame::new(top.len - done);
                self.keep_state(index, done, ends);
                let records = self.complete(index, done);
                self.step(None, false, false, records);
                self.settle(index, now);
            }
            Outcome::Partial { response, .. } | Outcome::Failure(response) => {
                top.attempts += 1;
                top.throttles = 0;
                top.response = Some((**response).clone());
                let len = top.len;
                if self.split_by_age(index, now) {
                    self.settle(index, now);
                } else if self.mapping.bisect_batch_on_function_error && len > 1 {
                    let stack = &mut self.lanes[index].stack;
                    stack.pop();
                    stack.push(Frame::new(len.div_ceil(2)));
                    stack.push(Frame::new(len / 2));
                } else if !self.retry(index, now) {
                    self.settle(index, now);
                }
            }
            Outcome::Throttled => {
                top.throttles += 1;
                top.pause(top.throttles, now);
            }
            Outcome::TooLarge { request_id } => self.refused(index, request_id.clone(), now),
        }
    }
}
