//! What the engine must do, written a second time and plainly: one list of records a lane, one stack of batches, one flag a record.
//!
//! It shares no code with the engine but the lane function. It is told every call, and compares every batch, discard and checkpoint.

mod account;
mod dispatch;
pub(crate) mod windows;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::rc::Rc;

use streamcore::{
    BACKOFF_MAX_MS, BACKOFF_MIN_MS, Checkpoint, Condition, DiscardId, MappingConfig, Offered,
    Response, StreamClock, lane,
};

use super::log::Log;
use super::options::{Options, passes};
use windows::{Bounds, Held, Path, Windows};

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
    /// Of the closing call of a window, which has no records: since when it is due.
    closing: Option<i64>,
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
            closing: None,
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
    /// Attempts, and the record, or the next one of a closing call.
    Oversized(u32, Option<usize>),
}

#[derive(Debug, Clone)]
struct GivenUp {
    condition: Condition,
    records: Vec<usize>,
    /// The first record that it holds back.
    first: usize,
    window: Option<(Held, bool)>,
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
    /// The tumbling window of the batch in work.
    window: Option<Bounds>,
    last_completion: Option<i64>,
    expected: VecDeque<Expected>,
}

/// What a snapshot must say.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub(crate) complete: Vec<bool>,
    changes: u64,
    path: Path,
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
    /// Filtered out when they were taken in, in this run.
    filtered: Vec<bool>,
    /// Records before this one may be in a page that was compacted, or made anew by an update.
    compacted: usize,
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
    /// Batches of this run that the service refused as too large: none of them may come again.
    refused: HashSet<Vec<usize>>,
    /// The lane that the engine turned to last in this call, and its first record then: some may have gone since.
    turned: Option<(usize, usize)>,
    /// Over all runs: for each key the records in order, how many of them have ended, and each record's place there.
    by_key: HashMap<u64, (usize, Vec<usize>)>,
    place: Vec<usize>,
    /// Over all runs: records whose function succeeded, that were given up, or that expired.
    pub(crate) ended: Vec<bool>,

    /// Discards that the reference has given up, told or not.
    given_up: u64,
    is_closed: bool,
    windows: Windows,
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
            filtered: Vec::new(),
            compacted: 0,
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
            refused: HashSet::new(),
            turned: None,
            by_key,
            place,
            ended: vec![false; log.len()],
            given_up: 0,
            is_closed: false,
            windows: Windows::new(options),
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
        // The source goes on after a sequence number, and gives an aggregate as a whole.
        self.taken_in = watermark.map_or(0, |position| self.log.after(position.sequence.as_str()));
        assert!(
            self.known[..self.taken_in].iter().all(|complete| *complete),
            "I2: what is read next lies behind a record that is not complete"
        );
        self.began_at = self.taken_in;
        self.done = vec![false; records];
        self.filtered = vec![false; records];
        self.compacted = 0;
        self.replay_now = i64::MIN;
        self.unconfirmed.clear();
        self.announced.clear();
        self.ids.clear();
        self.refused.clear();
        self.changes = u64::from(from.is_none());
        self.saved = 0;
        self.loose = from.is_some_and(|(_, checkpoint)| checkpoint.ended);
        self.is_closed = self.loose;
        self.begin_path(from.map_or_else(Path::default, |(known, _)| known.path.clone()));
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

    /// Records that this run has filtered out.
    pub(crate) fn filtered_records(&self) -> u64 {
        self.filtered
            .iter()
            .map(|filtered| u64::from(*filtered))
            .sum()
    }

    /// The sequence number of the last record taken in.
    pub(crate) fn last_taken_in(&self) -> Option<&str> {
        Some(&self.log.entries[self.taken_in.checked_sub(1)?].sequence)
    }

    // ---- intake ----

    pub(crate) fn offered(
        &mut self,
        records: std::ops::Range<usize>,
        got: Offered,
        behind: Option<i64>,
        now: i64,
    ) {
        assert!(got.accepted);
        let (mut fresh, mut duplicates, mut complete, mut filtered) = (0, 0, 0, 0);
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
            } else if !passes(&self.mapping, &self.log.entries[record]) {
                filtered += 1;
                self.filtered[record] = true;
                self.ended[record] = true;
            } else {
                let lane = self.lane_of(record);
                self.lanes[lane].pending.push_back(record);
            }
        }
        self.changes += u64::from(complete + filtered > 0);
        self.windows.fetching = false;
        self.windows.tip_since = (behind == Some(0)).then(|| self.windows.tip_since.unwrap_or(now));
        if fresh > 0 {
            self.windows.last_records_at = now;
        }
        let expected = Offered {
            accepted: true,
            records: fresh,
            duplicates,
            complete,
            filtered,
        };
        assert_eq!(
            got, expected,
            "I12: what the checkpoint knows as complete is not taken in again, all else is"
        );
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
        let path = self.path();
        self.compare_kept(checkpoint, &path);
        let mut complete: Vec<bool> = (0..self.log.len())
            .map(|record| self.filtered[record] || self.is_known(record))
            .collect();
        // The first record that holds the watermark back, or the aggregate that it is in.
        let behind = complete.iter().position(|complete| !complete);
        let behind = behind.map_or(self.log.len(), |record| self.log.begin_of(record));
        let number = |position: &streamcore::Position| {
            self.log.find(position.sequence.as_str(), position.sub)
        };
        // The source goes on after its sequence number, so it passes the whole of an aggregate.
        let watermark = checkpoint.watermark.as_ref();
        let watermark = watermark.map(|position| self.log.after(position.sequence.as_str()) - 1);
        let tags: Vec<(u8, Vec<Option<usize>>)> = checkpoint
            .tags()
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
        for (record, own) in complete.iter_mut().enumerate() {
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
            // Above the watermark a record that was filtered out may be judged anew. A compacted page knows it no more, so that there the
            // watermark passes it together with the next record that ran.
            let may_forget = self.filtered[record] && (record >= behind || behind < self.compacted);
            assert!(
                !*own || says || may_forget,
                "I12: the checkpoint forgets record {record}, which is complete"
            );
            *own = says;
        }
        assert!(
            checkpoint.tags().count() <= 10,
            "I10: at most one tag a factor"
        );
        Known {
            complete,
            changes: self.changes,
            path,
        }
    }

    pub(crate) fn saved(&mut self, known: &Known) {
        self.saved = self.saved.max(known.changes);
    }

    pub(crate) fn closed(&mut self) {
        self.loose = true;
        self.is_closed = true;
        self.changes += u64::from(self.is_idle());
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.pending() == 0 && self.unconfirmed.is_empty() && !self.has_open_window()
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
        self.compacted = self.taken_in;
        // What was refused is not remembered over an update.
        self.refused.clear();
        self.mapping = mapping;
        for record in records {
            let lane = self.lane_of(record);
            self.lanes[lane].pending.push_back(record);
        }
        self.changes += 1;
        // The checkpoint has the window as it is now, that of a batch too that was handed out and not completed.
        self.step(None, false, false, Vec::new());
    }
}
