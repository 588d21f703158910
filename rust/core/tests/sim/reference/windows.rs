//! Tumbling windows of the reference: which window a record is in, when one closes, what its state is, and what each checkpoint keeps.

use std::collections::HashSet;

use streamcore::{Batch, Checkpoint, Counters, StreamClock, Window, WindowPhase};

use super::{Frame, Lane, Reference};
use crate::sim::log;
use crate::sim::options::Options;

/// First instant of a window and first instant after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Bounds {
    pub(super) start_ms: i64,
    pub(super) end_ms: i64,
}

/// The last window of the shard, with the records that are in its state, in the order in which they came into it.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) bounds: Bounds,
    pub(super) phase: WindowPhase,
    folded: Vec<usize>,
}

impl Held {
    fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            phase: WindowPhase::Open,
            folded: Vec::new(),
        }
    }

    fn is_open(&self) -> bool {
        matches!(self.phase, WindowPhase::Open | WindowPhase::EndsEarly)
    }

    fn state(&self) -> Vec<u8> {
        if self.is_open() {
            fold(b"{}", &self.folded)
        } else {
            Vec::new()
        }
    }
}

/// A closing call that the function has answered.
#[derive(Debug, Clone)]
struct Closed {
    bounds: Bounds,
    early: bool,
    folded: Vec<usize>,
}

/// One completion: what it did, and the window after it.
#[derive(Debug)]
struct Step {
    /// The number of the discard that it waits for.
    discard: Option<u64>,
    window: Option<Held>,
    closed: Option<Closed>,
    /// Records that are in no window's last state: given up, expired, or handed out while there were no windows.
    outside: Vec<usize>,
}

/// All that was complete before some checkpoint.
#[derive(Debug, Clone, Default)]
pub(crate) struct Path {
    window: Option<Held>,
    closed: Vec<Closed>,
    outside: Vec<usize>,
}

/// What the reference knows of windows.
#[derive(Debug)]
pub(super) struct Windows {
    /// Whether the mappings of this seed have them, most of the time.
    exist: bool,
    grace_ms: i64,
    pub(super) held: Option<Held>,
    /// What the run began with, and each completion since.
    base: Path,
    steps: Vec<Step>,
    /// Of this run: how many were closed, and how many ended early.
    closed: (u64, u64),
    /// An answer of the source is under way.
    pub(super) fetching: bool,
    /// Since when the source has said without a break that it is at its tip.
    pub(super) tip_since: Option<i64>,
    pub(super) last_records_at: i64,
}

impl Windows {
    pub(super) fn new(options: &Options) -> Self {
        Self {
            exist: options.windows,
            grace_ms: options.window_grace_ms,
            held: None,
            base: Path::default(),
            steps: Vec::new(),
            closed: (0, 0),
            fetching: false,
            tip_since: None,
            last_records_at: i64::MIN,
        }
    }
}

pub(super) enum Due {
    No,
    Now,
    At(i64),
}

/// What the function does with a state: how many records, and a number that depends on each and on their order.
pub(crate) fn fold(state: &[u8], records: &[usize]) -> Vec<u8> {
    let text = str::from_utf8(state).unwrap();
    let mut parts = text.split('"').filter(|part| part.len() == 16);
    let (mut count, mut hash) = match (parts.next(), parts.next()) {
        (Some(count), Some(hash)) => (
            count.parse().unwrap(),
            u64::from_str_radix(hash, 16).unwrap(),
        ),
        _ => (0_usize, 0xcbf2_9ce4_8422_2325),
    };
    if records.is_empty() {
        return state.to_vec();
    }
    for record in records {
        count += 1;
        hash = (hash ^ u64::try_from(*record).unwrap()).wrapping_mul(0x0100_0000_01b3);
    }
    format!(r#"{{"n":"{count:016}","h":"{hash:016x}"}}"#).into_bytes()
}

/// What a window adds to an event.
fn window_json(start: &str, end: &str, state: &[u8], last: bool, early: bool) -> String {
    format!(
        concat!(
            r#","shardId":"{shard}","eventSourceARN":"{stream}","window":{{"start":"{start}","end":"{end}"}},"#,
            r#""state":{state},"isFinalInvokeForWindow":{last},"isWindowTerminatedEarly":{early}"#,
        ),
        shard = log::SHARD_ID,
        stream = log::STREAM_ARN,
        start = start,
        end = end,
        state = str::from_utf8(state).unwrap(),
        last = last,
        early = early,
    )
}

impl Reference {
    pub(super) fn arrival(&self, record: usize) -> i64 {
        self.log.entries[record].arrival_ms
    }

    /// The window of a batch that begins with this record.
    pub(super) fn bounds_of(&self, record: usize) -> Option<Bounds> {
        let size = self.mapping.tumbling_window_ms;
        if size == 0 {
            return None;
        }
        let mut at = self.arrival(record);
        if let Some(window) = &self.windows.held {
            if window.phase == WindowPhase::Closed {
                at = at.max(window.bounds.end_ms);
            } else if at < window.bounds.end_ms {
                return Some(window.bounds);
            }
        }
        let start_ms = at - at.rem_euclid(size);
        Some(Bounds {
            start_ms,
            end_ms: start_ms + size,
        })
    }

    pub(super) fn closing_due(&self, now: i64) -> Due {
        let Some(window) = self.windows.held.as_ref().filter(|window| window.is_open()) else {
            return Due::No;
        };
        if window.phase == WindowPhase::EndsEarly || self.mapping.tumbling_window_ms == 0 {
            return Due::Now;
        }
        let end = window.bounds.end_ms;
        if let Some(first) = self.lanes[0].pending.front() {
            let later = self.arrival(*first) >= end;
            return if later { Due::Now } else { Due::No };
        }
        if self.is_closed {
            return Due::Now;
        }
        match self.windows.tip_since {
            Some(since) if self.clock == StreamClock::Wall => {
                let at = since.max(end).max(self.windows.last_records_at) + self.windows.grace_ms;
                match (now < at, self.windows.fetching) {
                    (true, _) => Due::At(at),
                    (false, true) => Due::No,
                    (false, false) => Due::Now,
                }
            }
            _ => Due::No,
        }
    }

    pub(super) fn stream_now(&self, now: i64) -> i64 {
        if self.clock == StreamClock::Wall {
            now
        } else {
            self.replay_now
        }
    }

    pub(super) fn closing_frame(&self, now: i64) -> Frame {
        Frame {
            closing: Some(self.stream_now(now)),
            ..Frame::new(0)
        }
    }

    /// A window that ends early is closed before what is left of its batch.
    pub(super) fn end_early(&mut self, index: usize, now: i64) {
        let lane = &self.lanes[index];
        let ends = self
            .windows
            .held
            .as_ref()
            .is_some_and(|window| window.phase == WindowPhase::EndsEarly);
        let records = |top: &Frame| top.closing.is_none();
        if ends && lane.window.is_some() && lane.stack.last().is_some_and(records) {
            let frame = self.closing_frame(now);
            self.lanes[index].stack.push(frame);
        }
    }

    /// The window that the top frame's event tells, and whether it is a closing call.
    pub(super) fn window_of(&self, lane: &Lane) -> Option<(Held, bool)> {
        if lane.stack.last()?.closing.is_some() {
            return Some((self.windows.held.clone().unwrap(), true));
        }
        let bounds = lane.window?;
        let held = self.windows.held.clone();
        let current = held.filter(|window| window.is_open() && window.bounds == bounds);
        Some((current.unwrap_or_else(|| Held::new(bounds)), false))
    }

    /// Compares the window of an event or of a discard.
    pub(super) fn compare_window(told: Option<&Window>, own: Option<&(Held, bool)>) {
        assert_eq!(
            told.is_some(),
            own.is_some(),
            "I7: a window is told where there is one"
        );
        let (Some(told), Some((own, last))) = (told, own) else {
            return;
        };
        let bounds = Bounds {
            start_ms: told.start_ms(),
            end_ms: told.end_ms(),
        };
        assert_eq!(bounds, own.bounds, "I7: the window of the batch");
        assert_eq!(
            String::from_utf8_lossy(told.state()),
            String::from_utf8_lossy(&own.state()),
            "I7: the state that the function gets"
        );
        assert_eq!(told.is_final(), *last, "I7: the closing call");
        assert_eq!(
            told.is_terminated_early(),
            own.phase == WindowPhase::EndsEarly,
            "I7: why the window closes"
        );
    }

    /// What the event of a batch has because of its window, and its bytes with the flags at their longest.
    pub(super) fn around(batch: &Batch) -> (String, usize) {
        batch.window().map_or_else(Default::default, |window| {
            let (start, end) = (window.start_text(), window.end_text());
            let (last, early) = (window.is_final(), window.is_terminated_early());
            let json = |last, early| window_json(&start, &end, window.state(), last, early);
            (json(last, early), json(false, false).len())
        })
    }

    /// Bytes of a window around records that are not cut yet.
    pub(super) fn bytes_around(&self, bounds: Option<Bounds>) -> usize {
        bounds.map_or(0, |bounds| {
            let held = self.windows.held.as_ref();
            let current = held.filter(|window| window.is_open() && window.bounds == bounds);
            let state = current.map_or_else(|| b"{}".to_vec(), Held::state);
            let instant = "2023-11-14T22:13:20Z"; // each is as long
            window_json(instant, instant, &state, false, false).len()
        })
    }

    /// The function is about to see records of this window.
    pub(super) fn open_window(&mut self, bounds: Bounds) {
        let known = self.windows.held.as_ref();
        if !known.is_some_and(|window| window.is_open() && window.bounds == bounds) {
            self.windows.held = Some(Held::new(bounds));
        }
    }

    /// The function's answer has completed these records of the batch in work.
    pub(super) fn keep_state(&mut self, index: usize, done: usize, ends: bool) {
        if self.lanes[index].window.is_none() {
            return;
        }
        let records: Vec<usize> = self.lanes[index]
            .pending
            .iter()
            .take(done)
            .copied()
            .collect();
        let window = self.windows.held.as_mut().unwrap();
        window.folded.extend(records);
        window.phase = if ends {
            WindowPhase::EndsEarly
        } else {
            WindowPhase::Open
        };
    }

    /// A completion: the window after it belongs to it. `closing` says that it was a closing call, `lost` that no function has the records.
    pub(super) fn step(
        &mut self,
        discard: Option<u64>,
        closing: bool,
        lost: bool,
        records: Vec<usize>,
    ) {
        let (mut closed, mut outside) = (None, records);
        if closing {
            let window = self.windows.held.as_mut().unwrap();
            let early = window.phase == WindowPhase::EndsEarly;
            window.phase = if early {
                self.windows.closed.1 += 1;
                WindowPhase::Restarted
            } else {
                self.windows.closed.0 += 1;
                WindowPhase::Closed
            };
            let folded = std::mem::take(&mut window.folded);
            if lost {
                outside = folded;
            } else {
                closed = Some(Closed {
                    bounds: window.bounds,
                    early,
                    folded,
                });
            }
        } else if !lost && self.lanes[0].window.is_some() {
            outside.clear();
        }
        if self.windows.exist {
            self.windows.steps.push(Step {
                discard,
                window: self.windows.held.clone(),
                closed,
                outside,
            });
        }
    }

    /// What is complete and confirmed: all before the first discard that is not.
    pub(super) fn path(&self) -> Path {
        let mut path = self.windows.base.clone();
        let confirmed = |step: &&Step| {
            step.discard
                .is_none_or(|number| !self.unconfirmed.contains_key(&number))
        };
        for step in self.windows.steps.iter().take_while(confirmed) {
            path.window.clone_from(&step.window);
            path.closed.extend(step.closed.clone());
            path.outside.extend(&step.outside);
        }
        path
    }

    pub(super) fn begin_path(&mut self, path: Path) {
        self.windows.held.clone_from(&path.window);
        self.windows.base = path;
        self.windows.steps.clear();
        self.windows.closed = (0, 0);
        (
            self.windows.tip_since,
            self.windows.last_records_at,
            self.windows.fetching,
        ) = (None, i64::MIN, false);
    }

    /// Compares the window of a snapshot: it is the one after the last record that the snapshot knows.
    pub(super) fn compare_kept(&self, checkpoint: &Checkpoint, path: &Path) {
        if !self.windows.exist {
            assert!(checkpoint.window.is_none());
            return;
        }
        let told = checkpoint.window.as_ref().map(|window| {
            let state = String::from_utf8_lossy(&window.state).into_owned();
            (window.start_ms, window.end_ms, window.phase, state)
        });
        let own = path.window.as_ref().map(|window| {
            let state = String::from_utf8_lossy(&window.state()).into_owned();
            let Bounds { start_ms, end_ms } = window.bounds;
            (start_ms, end_ms, window.phase, state)
        });
        assert_eq!(
            told, own,
            "I7: the checkpoint has the window of its records"
        );
    }

    pub(super) fn has_open_window(&self) -> bool {
        self.windows.held.as_ref().is_some_and(Held::is_open)
    }

    /// The source may have more than it has said.
    pub(crate) fn leave_tip(&mut self) {
        self.windows.tip_since = None;
    }

    pub(crate) fn fetches(&mut self, fetching: bool) {
        self.windows.fetching = fetching;
    }

    /// At the end each record is in the last state of one window, and in no other, or in none because it was given up.
    pub(crate) fn account_for_windows(&self, counters: &Counters) {
        let told = (counters.windows_closed, counters.windows_ended_early);
        assert_eq!(told, self.windows.closed, "I7: windows that were closed");
        if !self.windows.exist {
            return;
        }
        let path = self.path();
        let mut seen = vec![false; self.log.len()];
        let mut bounds = HashSet::new();
        for closed in &path.closed {
            assert!(
                closed.early || bounds.insert(closed.bounds),
                "I7: {:?} closes twice",
                closed.bounds
            );
        }
        for closed in &path.closed {
            for record in &closed.folded {
                assert!(
                    self.arrival(*record) < closed.bounds.end_ms,
                    "I7: record {record} is in a window before its own"
                );
            }
        }
        let folded = path.closed.iter().flat_map(|closed| &closed.folded);
        for record in folded.chain(&path.outside) {
            assert!(
                !std::mem::replace(&mut seen[*record], true),
                "I7: record {record} is counted twice"
            );
        }
        let lost = seen.iter().position(|seen| !seen);
        assert_eq!(lost, None, "I7: a record is counted nowhere");
    }
}
