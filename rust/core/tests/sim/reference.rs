//! What the engine must do, written a second time and plainly: one list of records a lane, one stack of batches, one flag a record.
//!
//! It shares no code with the engine but the lane function. It is told every call, and compares every batch, discard and checkpoint.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::rc::Rc;

use streamcore::{
    BACKOFF_MAX_MS, BACKOFF_MIN_MS, Batch, Checkpoint, Condition, Discard, DiscardId,
    ENVELOPE_BYTES, Event, MappingConfig, Offered, Outcome, Response, StreamClock, lane,
};

use super::log::Log;
use super::options::Options;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Invoke,
    Oversized,
    Aged,
    Expired,
}

/// A batch identity: the next `len` records of its lane.
#[derive(Debug, Clone)]
struct Frame {
    len: usize,
    fate: Fate,
    attempts: u32,
    throttles: u32,
    /// None while it was not handed out.
    request_id: Option<String>,
    response: Option<Response>,
    /// It may not be tried again earlier, and must not be later.
    not_before: i64,
    not_after: i64,
}

impl Frame {
    fn new(len: usize) -> Self {
        Self {
            len,
            fate: Fate::Invoke,
            attempts: 0,
            throttles: 0,
            request_id: None,
            response: None,
            not_before: i64::MIN,
            not_after: i64::MIN,
        }
    }
}

impl Frame {
    /// The pause after so many failures: 0.2 s doubling to 60 s, a tenth more or less.
    fn pause(&mut self, failures: u32, now: i64) {
        let double = |base: i64, _| (base * 2).min(BACKOFF_MAX_MS);
        let base = (1..failures).fold(BACKOFF_MIN_MS, double);
        self.not_before = now + base - base / 10;
        self.not_after = now + base + base / 10;
    }
}

/// What the engine's trace must tell next of a lane.
#[derive(Debug, Clone)]
enum Expected {
    Discard(GivenUp),
    Expired(usize),
    Oversized(u32),
}

#[derive(Debug, Clone)]
struct GivenUp {
    condition: Condition,
    records: Vec<usize>,
    invoke_count: u32,
    request_id: Option<String>,
    response: Option<Response>,
}

#[derive(Debug, Default)]
struct Lane {
    pending: VecDeque<usize>,
    /// The top (last) one covers the first pending records, and so on.
    stack: Vec<Frame>,
    in_flight: bool,
    last_completion: Option<i64>,
    expected: VecDeque<Expected>,
}

/// What a snapshot must say.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub(crate) complete: Vec<bool>,
    changes: u64,
}

#[derive(Debug)]
pub(crate) struct Reference {
    log: Rc<Log>,
    mapping: MappingConfig,
    retention_ms: Option<i64>,
    clock: StreamClock,
    sync_checkpoints: bool,
    lanes: Vec<Lane>,
    /// Index of the record after the last one taken in.
    pub(crate) taken_in: usize,
    /// Index of the first record that this run takes in, which has the ordinal 0.
    began_at: usize,
    offered_at: Vec<i64>,
    /// Complete for order, in this run.
    done: Vec<bool>,
    /// Complete for the checkpoint that the run began with, or before the last update.
    known: Vec<bool>,
    replay_now: i64,
    /// By number: the lane and the first record of a discard that is not confirmed.
    unconfirmed: BTreeMap<u64, (usize, usize)>,
    /// Discards that were told of and not yet handed over.
    announced: VecDeque<(u64, GivenUp)>,
    ids: HashMap<DiscardId, u64>,
    next_number: u64,
    changes: u64,
    saved: u64,
    /// Whether batching windows may close early from here on.
    pub(crate) loose: bool,
    request_ids: HashSet<String>,
    /// The lane that the engine turned to last in this call, and its first record then: some may have gone since.
    turned: Option<(usize, usize)>,
    /// Over all runs: for each key the records in order, how many of them have ended, and each record's place there.
    by_key: HashMap<u64, (usize, Vec<usize>)>,
    place: Vec<usize>,
    /// Over all runs: records whose function succeeded, that were given up, or that expired.
    pub(crate) ended: Vec<bool>,
}

impl Reference {
    pub(crate) fn new(log: Rc<Log>, options: &Options) -> Self {
        let mut by_key: HashMap<u64, (usize, Vec<usize>)> = HashMap::new();
        let mut place = Vec::with_capacity(log.len());
        for (index, entry) in log.entries.iter().enumerate() {
            let (_, records) = by_key.entry(entry.key_hash).or_default();
            place.push(records.len());
            records.push(index);
        }
        let mut own = Self {
            mapping: options.mapping.clone(),
            retention_ms: options.retention_ms,
            clock: options.clock,
            sync_checkpoints: options.sync_checkpoints,
            lanes: Vec::new(),
            taken_in: 0,
            began_at: 0,
            offered_at: vec![0; log.len()],
            done: Vec::new(),
            known: Vec::new(),
            replay_now: i64::MIN,
            unconfirmed: BTreeMap::new(),
            announced: VecDeque::new(),
            ids: HashMap::new(),
            next_number: 0,
            changes: 0,
            saved: 0,
            loose: false,
            request_ids: HashSet::new(),
            turned: None,
            by_key,
            place,
            ended: vec![false; log.len()],
            log,
        };
        own.restart(options.mapping.clone(), None);
        own
    }

    /// The run is over; another begins with what the store has.
    pub(crate) fn restart(&mut self, mapping: MappingConfig, from: Option<(&Known, &Checkpoint)>) {
        let records = self.log.len();
        self.known = from.map_or_else(|| vec![false; records], |(known, _)| known.complete.clone());
        let watermark = from.and_then(|(_, checkpoint)| checkpoint.watermark.as_ref());
        self.taken_in =
            watermark.map_or(0, |position| self.log.find(position.sequence.as_str()) + 1);
        self.began_at = self.taken_in;
        self.done = vec![false; records];
        self.replay_now = i64::MIN;
        self.unconfirmed.clear();
        self.announced.clear();
        self.ids.clear();
        self.changes = u64::from(from.is_none());
        self.saved = 0;
        self.loose = from.is_some_and(|(_, checkpoint)| checkpoint.ended);
        self.lanes = (0..mapping.parallelization_factor)
            .map(|_| Lane::default())
            .collect();
        self.mapping = mapping;
    }

    pub(crate) fn mapping(&self) -> &MappingConfig {
        &self.mapping
    }

    fn lane_of(&self, record: usize) -> usize {
        lane(
            self.log.entries[record].key_hash,
            self.mapping.parallelization_factor,
        )
        .into()
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.lanes.iter().filter(|lane| lane.in_flight).count()
    }

    pub(crate) fn unconfirmed(&self) -> usize {
        self.unconfirmed.len()
    }

    pub(crate) fn is_dirty(&self) -> bool {
        self.saved < self.changes
    }

    pub(crate) fn holds_back(&self) -> bool {
        self.sync_checkpoints && self.is_dirty()
    }

    /// Records taken in and not complete.
    pub(crate) fn pending(&self) -> usize {
        self.lanes.iter().map(|lane| lane.pending.len()).sum()
    }

    /// The sequence number of the last record taken in.
    pub(crate) fn last_taken_in(&self) -> Option<&str> {
        Some(&self.log.entries[self.taken_in.checked_sub(1)?].sequence)
    }

    // ---- intake ----

    pub(crate) fn offered(&mut self, records: std::ops::Range<usize>, got: Offered, now: i64) {
        assert!(got.accepted);
        let (mut fresh, mut duplicates, mut complete) = (0, 0, 0);
        for record in records {
            if record < self.taken_in {
                duplicates += 1;
                continue;
            }
            assert_eq!(record, self.taken_in, "the source is read without a gap");
            self.taken_in += 1;
            fresh += 1;
            self.offered_at[record] = now;
            if self.known[record] {
                complete += 1;
            } else {
                let lane = self.lane_of(record);
                self.lanes[lane].pending.push_back(record);
            }
        }
        self.changes += u64::from(complete > 0);
        let expected = Offered {
            accepted: true,
            records: fresh,
            duplicates,
            complete,
        };
        assert_eq!(
            got, expected,
            "I12: what the checkpoint knows as complete is not taken in again, all else is"
        );
    }

    // ---- batches ----

    /// The limit that ends a record, the smaller one of age and retention.
    fn limit(&self) -> Option<(i64, Fate)> {
        let age = self.mapping.record_age_max_ms.map(|age| (age, Fate::Aged));
        let retention = self
            .retention_ms
            .map(|retention| (retention, Fate::Expired));
        age.into_iter()
            .chain(retention)
            .min_by_key(|(limit, _)| *limit)
    }

    fn stale(&self, record: usize, now: i64) -> Option<Fate> {
        let (limit, fate) = self.limit()?;
        let now = if self.clock == StreamClock::Wall {
            now
        } else {
            self.replay_now
        };
        (now.saturating_sub(self.log.entries[record].arrival_ms) > limit).then_some(fate)
    }

    fn event_bytes<'a>(&self, records: impl Iterator<Item = &'a usize>) -> usize {
        let mut bytes = usize::try_from(ENVELOPE_BYTES).unwrap();
        for (nth, record) in records.enumerate() {
            bytes += self.log.entries[*record].json.len() + usize::from(nth > 0);
        }
        bytes
    }

    /// The next batch of waiting records: its frame, and whether no further record could join it.
    fn cut(&self, index: usize) -> (Frame, bool, bool) {
        let pending = &self.lanes[index].pending;
        let max = usize::try_from(self.mapping.payload_bytes_max).unwrap();
        let size = usize::try_from(self.mapping.batch_size).unwrap();
        let fits = |len: &usize| self.event_bytes(pending.iter().take(*len)) <= max;
        let len = (1..=size.min(pending.len()))
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
        let by_bytes = len < size && len < pending.len();
        (Frame::new(len), len == size || by_bytes, by_bytes)
    }

    /// The engine turns to a lane: a batch is cut if none is in work, and what is too old leaves it. True if the payload limit cut it.
    fn turn_to(&mut self, index: usize, now: i64) -> bool {
        let mut by_bytes = false;
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
            self.lanes[index].stack.push(frame);
        }
        self.settle(index, now);
        by_bytes
    }

    fn settle(&mut self, index: usize, now: i64) {
        loop {
            let Some(top) = self.lanes[index].stack.last() else {
                self.lanes[index].last_completion = Some(now);
                return;
            };
            match top.fate {
                Fate::Aged => self.give_up(index, Condition::RecordAgeExceeded),
                Fate::Expired => {
                    let len = self.lanes[index].stack.pop().unwrap().len;
                    self.complete(index, len);
                    self.lanes[index].expected.push_back(Expected::Expired(len));
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
                    lane.expected.push_back(Expected::Oversized(attempts));
                    if !self.retry(index, now) {
                        continue;
                    }
                    return;
                }
            }
        }
    }

    /// The top frame has failed once more. False if it was given up.
    fn retry(&mut self, index: usize, now: i64) -> bool {
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

    fn split_by_age(&mut self, index: usize, now: i64) -> bool {
        let top = self.lanes[index].stack.last().unwrap().clone();
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

    fn give_up(&mut self, index: usize, condition: Condition) {
        let frame = self.lanes[index].stack.pop().unwrap();
        let records = self.complete(index, frame.len);
        self.lanes[index]
            .expected
            .push_back(Expected::Discard(GivenUp {
                condition,
                records,
                invoke_count: frame.attempts.max(1),
                request_id: frame.request_id,
                response: frame
                    .response
                    .filter(|_| condition == Condition::RetryAttemptsExhausted),
            }));
    }

    /// The first `len` records of a lane are complete for order.
    fn complete(&mut self, index: usize, len: usize) -> Vec<usize> {
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
    fn end(&mut self, record: usize) {
        self.ended[record] = true;
        let (ended, _) = self
            .by_key
            .get_mut(&self.log.entries[record].key_hash)
            .unwrap();
        let place = self.place[record];
        assert!(
            place <= *ended,
            "I3: record {record} ended before an earlier one of its key"
        );
        *ended = (*ended).max(place + 1);
    }

    /// The function succeeded with these, and nobody saw it.
    pub(crate) fn unseen_success(&mut self, records: &[usize]) {
        for record in records {
            self.end(*record);
        }
    }

    fn handed_out(&mut self, batch: &Batch, whole: bool, now: i64) -> (Vec<usize>, bool) {
        assert!(
            !self.holds_back(),
            "a batch was handed out before the last completion was saved"
        );
        let records: Vec<usize> = batch
            .records()
            .map(|record| self.log.find(record.sequence()))
            .collect();
        let index = self.lane_of(records[0]);
        assert!(
            !self.lanes[index].in_flight,
            "I4: lane {index} has a batch in flight already"
        );
        assert!(self.lanes[index].expected.is_empty());
        let turned = self
            .turned
            .filter(|(lane, _)| *lane == index && !self.lanes[index].stack.is_empty());
        let first = turned.map_or(records[0], |(_, first)| first);
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
            Some(own) => assert_eq!(batch.request_id(), own, "I6: a retry keeps its request id"),
            None => assert!(
                self.request_ids.insert(batch.request_id().to_owned()),
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
        for ((ordinal, key_hash, _), record) in batch.numbered().zip(&records) {
            let own = u64::try_from(record - self.began_at).unwrap();
            assert_eq!(ordinal, own, "the ordinal of record {record}");
            assert_eq!(key_hash, self.log.entries[*record].key_hash);
        }
        let bytes = self.event_bytes(records.iter());
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
            let event = format!(r#"{{"Records":[{}]}}"#, parts.join(","));
            assert_eq!(String::from_utf8_lossy(&batch.json()), event, "the event");
        }
        self.check_oldest_first(index, first);
        for record in &records {
            self.replay_now = self.replay_now.max(self.log.entries[*record].arrival_ms);
        }
        let top = self.lanes[index].stack.last_mut().unwrap();
        top.request_id = Some(batch.request_id().to_owned());
        self.lanes[index].in_flight = true;
        assert!(
            self.in_flight() <= self.mapping.parallelization_factor.into(),
            "I4: at most ParallelizationFactor"
        );
        (records, by_bytes)
    }

    /// Of the lanes that could surely hand out, the chosen one had the oldest record when the engine turned to it.
    fn check_oldest_first(&self, index: usize, first: usize) {
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
    fn ages_at(&self, index: usize, len: usize) -> Option<i64> {
        let (limit, _) = self.limit().filter(|_| self.clock == StreamClock::Wall)?;
        let records = self.lanes[index].pending.iter().take(len);
        let oldest = records
            .map(|record| self.log.entries[*record].arrival_ms)
            .min()?;
        Some(oldest + limit + 1)
    }

    /// The engine says that nothing may run before `until`: no lane may be due by then.
    pub(crate) fn waits(&self, until: Option<i64>, open: bool, now: i64) {
        if self.holds_back() {
            return;
        }
        for (index, lane) in self.lanes.iter().enumerate() {
            let Some(first) = lane.pending.front().filter(|_| !lane.in_flight) else {
                continue;
            };
            let due = match lane.stack.last() {
                Some(top) => top.not_after,
                None if open && self.mapping.batching_window_ms > 0 && !self.cut(index).1 => {
                    let begin = lane.last_completion.unwrap_or(i64::MIN);
                    begin.max(self.offered_at[*first]) + self.mapping.batching_window_ms
                }
                None => i64::MIN,
            };
            let tried = lane.stack.last().map_or(1, |top| top.len);
            let due = self.ages_at(index, tried).map_or(due, |at| at.min(due));
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

    pub(crate) fn finished(&mut self, records: &[usize], outcome: &Outcome, now: i64) {
        let index = self.lane_of(records[0]);
        let lane = &mut self.lanes[index];
        assert!(std::mem::take(&mut lane.in_flight));
        let top = lane.stack.last_mut().unwrap();
        match outcome {
            Outcome::Success => {
                let len = lane.stack.pop().unwrap().len;
                self.complete(index, len);
                self.settle(index, now);
            }
            Outcome::Partial { index: done, .. } if *done > 0 => {
                let done = usize::try_from(*done).unwrap();
                *top = Frame::new(top.len - done);
                self.complete(index, done);
                self.settle(index, now);
            }
            Outcome::Partial { response, .. } | Outcome::Failure(response) => {
                top.attempts += 1;
                top.throttles = 0;
                top.response = Some(response.clone());
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
        }
    }

    // ---- what the engine tells ----

    /// Compares what a call put into the trace. Returns the records of the batch that it handed out, and whether bytes limited it.
    pub(crate) fn compare(
        &mut self,
        trace: &[Event],
        batch: Option<&Batch>,
        whole: bool,
        now: i64,
    ) -> Option<(Vec<usize>, bool)> {
        let mut handed_out = None;
        self.turned = None;
        for event in trace {
            match event {
                Event::HandedOut { .. } => {
                    handed_out = Some(self.handed_out(batch.unwrap(), whole, now));
                }
                Event::Oversized {
                    lane,
                    sequence,
                    attempts,
                } => {
                    let first = self.lanes[usize::from(*lane)].pending.front().copied();
                    match self.expect(*lane, now) {
                        Expected::Oversized(own) => {
                            assert_eq!(*attempts, own, "I5: attempts with a record too large");
                        }
                        other => panic!("lane {lane} must tell {other:?}, not {event}"),
                    }
                    assert_eq!(
                        first,
                        Some(self.log.find(sequence)),
                        "the record too large is the first of its lane"
                    );
                }
                Event::Expired { lane, records } => match self.expect(*lane, now) {
                    Expected::Expired(own) => assert_eq!(
                        usize::try_from(*records).unwrap(),
                        own,
                        "records that expire"
                    ),
                    other => panic!("lane {lane} must tell {other:?}, not {event}"),
                },
                Event::Discarded {
                    lane,
                    condition,
                    first,
                    last,
                    records,
                    invoke_count,
                } => {
                    let Expected::Discard(own) = self.expect(*lane, now) else {
                        panic!("lane {lane} must not give up anything: {event}")
                    };
                    assert_eq!(*condition, own.condition, "why records are given up");
                    assert_eq!(self.log.find(first), own.records[0]);
                    assert_eq!(self.log.find(last), *own.records.last().unwrap());
                    assert_eq!(usize::try_from(*records).unwrap(), own.records.len());
                    assert_eq!(
                        *invoke_count, own.invoke_count,
                        "I5: a discard carries the exact count"
                    );
                    self.next_number += 1;
                    self.unconfirmed
                        .insert(self.next_number, (usize::from(*lane), own.records[0]));
                    self.announced.push_back((self.next_number, own));
                }
                _ => {}
            }
        }
        for (index, lane) in self.lanes.iter().enumerate() {
            assert!(
                lane.expected.is_empty(),
                "lane {index} has not told {:?}",
                lane.expected
            );
        }
        handed_out
    }

    fn expect(&mut self, lane: u8, now: i64) -> Expected {
        let index = usize::from(lane);
        if self.lanes[index].expected.is_empty() {
            assert!(
                !self.lanes[index].in_flight,
                "I4: lane {lane} has a batch in flight"
            );
            self.turned = self.lanes[index]
                .pending
                .front()
                .map(|first| (index, *first));
            self.turn_to(index, now);
        }
        let expected = self.lanes[index].expected.pop_front();
        expected.unwrap_or_else(|| panic!("lane {lane} has nothing to tell but its next batch"))
    }

    /// A discard was handed over, in the order in which they were told.
    pub(crate) fn discard(&mut self, discard: &Discard) {
        let (number, own) = self
            .announced
            .pop_front()
            .expect("each discard is told in the trace first");
        let records: Vec<usize> = discard
            .records()
            .map(|record| self.log.find(record.sequence()))
            .collect();
        assert_eq!(records, own.records);
        assert_eq!(discard.condition(), own.condition);
        assert_eq!(discard.approximate_invoke_count(), own.invoke_count);
        assert_eq!(
            discard.response(),
            own.response.as_ref(),
            "what the function's service said last"
        );
        if let Some(request_id) = own.request_id {
            assert_eq!(
                discard.request_id(),
                request_id,
                "the request id of the last attempt"
            );
        }
        for record in discard.records() {
            let entry = &self.log.entries[self.log.find(record.sequence())];
            assert_eq!(
                (record.key(), record.arrival_ms()),
                (entry.key.as_str().into(), entry.arrival_ms)
            );
        }
        assert!(
            self.ids.insert(discard.id(), number).is_none(),
            "a discard has an id of its own"
        );
    }

    pub(crate) fn discards_handed_over(&self) -> bool {
        self.announced.is_empty()
    }

    pub(crate) fn confirmed(&mut self, id: DiscardId) -> bool {
        let Some(number) = self.ids.remove(&id) else {
            return false;
        };
        self.changes += 1;
        self.unconfirmed.remove(&number).is_some()
    }

    // ---- checkpoints and life cycle ----

    fn is_known(&self, record: usize) -> bool {
        let held_back = || {
            let own = self.lane_of(record);
            self.unconfirmed
                .values()
                .any(|(lane, first)| *lane == own && *first <= record)
        };
        self.known[record] || (self.done[record] && !held_back())
    }

    /// Compares a snapshot record by record.
    pub(crate) fn snapshot(&self, checkpoint: &Checkpoint) -> Known {
        let complete: Vec<bool> = (0..self.log.len())
            .map(|record| self.is_known(record))
            .collect();
        let number = |position: &streamcore::Position| self.log.find(position.sequence.as_str());
        let watermark = checkpoint.watermark.as_ref().map(number);
        let tags: Vec<(u8, Vec<Option<usize>>)> = checkpoint
            .lanes
            .iter()
            .map(|tag| {
                assert_eq!(tag.lane_function, streamcore::LANE_FUNCTION_VERSION);
                let marks: Vec<_> = tag
                    .marks
                    .iter()
                    .map(|mark| mark.as_ref().map(number))
                    .collect();
                (u8::try_from(marks.len()).unwrap(), marks)
            })
            .collect();
        for (record, own) in complete.iter().enumerate() {
            let hash = self.log.entries[record].key_hash;
            let says = watermark.is_some_and(|watermark| record <= watermark)
                || tags.iter().any(|(factor, marks)| {
                    *factor > 0
                        && marks[usize::from(lane(hash, *factor))]
                            .is_some_and(|mark| record <= mark)
                });
            assert!(
                *own || !says,
                "I2: the checkpoint passes record {record}, which is not complete"
            );
            assert!(
                !own || says,
                "I12: the checkpoint forgets record {record}, which is complete"
            );
        }
        assert!(
            checkpoint.lanes.len() <= 10,
            "I10: at most one tag a factor"
        );
        Known {
            complete,
            changes: self.changes,
        }
    }

    pub(crate) fn saved(&mut self, known: &Known) {
        self.saved = self.saved.max(known.changes);
    }

    pub(crate) fn closed(&mut self) {
        self.loose = true;
        self.changes += u64::from(self.is_idle());
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.pending() == 0 && self.unconfirmed.is_empty()
    }

    pub(crate) fn updated(&mut self, mapping: MappingConfig) {
        for record in 0..self.log.len() {
            self.known[record] |= self.done[record];
        }
        let mut records: Vec<usize> = self
            .lanes
            .iter()
            .flat_map(|lane| &lane.pending)
            .copied()
            .collect();
        records.sort_unstable();
        let last_completion = self
            .lanes
            .iter()
            .filter_map(|lane| lane.last_completion)
            .max();
        self.lanes = (0..mapping.parallelization_factor)
            .map(|_| Lane {
                last_completion,
                ..Lane::default()
            })
            .collect();
        self.mapping = mapping;
        for record in records {
            let lane = self.lane_of(record);
            self.lanes[lane].pending.push_back(record);
        }
        self.changes += 1;
    }
}
