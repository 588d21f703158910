//! Tumbling windows (I7): a model that crashes at any point, and the rules one by one.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use streamcore::{
    Batch, Checkpoint, CheckpointKey, Condition, Confirmation, Discard, DiscardId, Engine,
    LaneState, MappingConfig, MappingIdentity, Outcome, Page, PageBuilder, ReturnedState,
    ShardConfig, ShardState, Start, StreamClock, Taken, Task, UsageError, WindowPhase, WindowState,
    key_hash, lane,
};

const GRACE_MS: i64 = 50;

fn config(mapping: MappingConfig) -> ShardConfig {
    let key = CheckpointKey {
        mapping_uuid: "mapping".into(),
        stream_identity: "stream".into(),
        shard_id: "shardId-0".into(),
    };
    let identity = MappingIdentity {
        event_source_arn: "arn:aws:kinesis:us-east-1:123456789012:stream/s".into(),
        function_arn: "arn:aws:lambda:us-east-1:123456789012:function:f".into(),
        ..MappingIdentity::default()
    };
    ShardConfig {
        window_grace_ms: GRACE_MS,
        ..ShardConfig::new(key, identity, mapping)
    }
}

/// Records of (number, arrival).
fn page(records: &[(u64, i64)]) -> Page {
    let mut builder = PageBuilder::new();
    for (number, arrival_ms) in records {
        builder
            .push("key", b"x", *arrival_ms, Some(&number.to_string()))
            .unwrap();
    }
    builder.finish()
}

fn numbers(batch: &Batch) -> Vec<u64> {
    batch
        .records()
        .iter()
        .map(|record| record.sequence().parse().unwrap())
        .collect()
}

/// A state that says which records are in it, `{"1":0,"2":0}`, with spaces to make it large.
fn state_of(records: &[u64], padding: usize) -> Vec<u8> {
    let members: Vec<String> = records
        .iter()
        .map(|number| format!("\"{number}\":0"))
        .collect();
    format!("{{{}{}}}", members.join(","), " ".repeat(padding)).into_bytes()
}

fn in_state(state: &[u8]) -> Vec<u64> {
    let text = str::from_utf8(state).unwrap();
    text.split('"')
        .skip(1)
        .step_by(2)
        .map(|number| number.parse().unwrap())
        .collect()
}

fn grown(batch: &Batch, done: usize, padding: usize, ends_window: bool) -> ReturnedState {
    let mut all = in_state(batch.window().unwrap().state());
    all.extend(&numbers(batch)[..done]);
    ReturnedState {
        state: state_of(&all, padding),
        ends_window,
    }
}

// ---- the model ----

#[derive(Debug, Clone, Copy)]
enum How {
    Success { padding: usize, ends: bool },
    Partial { at: u32, padding: usize, ends: bool },
    Failure,
    Throttle,
}

#[derive(Debug, Clone)]
enum Op {
    Offer { records: usize, at_tip: bool },
    Take,
    Finish(How),
    Confirm(Index),
    Pass(i64),
    Save,
    Crash,
    FetchFailed,
    Update(i64),
}

fn how() -> impl Strategy<Value = How> {
    let padding = prop_oneof![4 => Just(0_usize), 1 => 0_usize..400];
    let ends = proptest::bool::weighted(0.1);
    prop_oneof![
        5 => (padding.clone(), ends).prop_map(|(padding, ends)| How::Success { padding, ends }),
        3 => (0_u32..6, padding, ends).prop_map(|(at, padding, ends)| How::Partial { at, padding, ends }),
        3 => Just(How::Failure),
        1 => Just(How::Throttle),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0_usize..8, any::<bool>()).prop_map(|(records, at_tip)| Op::Offer { records, at_tip }),
        8 => Just(Op::Take),
        8 => how().prop_map(Op::Finish),
        3 => any::<Index>().prop_map(Op::Confirm),
        3 => (0_i64..400).prop_map(Op::Pass),
        3 => Just(Op::Save),
        1 => Just(Op::Crash),
        1 => Just(Op::FetchFailed),
        1 => (1_i64..40).prop_map(Op::Update),
    ]
}

/// The result of a closing call.
#[derive(Debug, Clone)]
struct Closed {
    start_ms: i64,
    end_ms: i64,
    early: bool,
    records: Vec<u64>,
}

struct World {
    log: Vec<(u64, i64)>,
    mapping: MappingConfig,
    engine: Engine,
    shard: u32,
    now: i64,
    offered: usize,
    running: Option<Batch>,
    /// What a failed attempt had, which the next one must have too.
    failed: Option<(String, Vec<u64>, Vec<u8>)>,
    unconfirmed: Vec<DiscardId>,
    closed: Vec<Closed>,
    discarded: BTreeSet<u64>,
    saved: Option<Vec<u8>>,
}

impl World {
    fn new(log: Vec<(u64, i64)>, mapping: MappingConfig) -> Self {
        let mut world = Self {
            log,
            mapping,
            engine: Engine::default(),
            shard: 0,
            now: 0,
            offered: 0,
            running: None,
            failed: None,
            unconfirmed: Vec::new(),
            closed: Vec::new(),
            discarded: BTreeSet::new(),
            saved: None,
        };
        world.begin();
        world
    }

    /// Begins with what is saved: what came of later records is forgotten, as by a sink that commits with the checkpoint.
    fn begin(&mut self) {
        let checkpoint = self
            .saved
            .as_ref()
            .map(|blob| Checkpoint::decode(blob).unwrap());
        let (mark, window) = checkpoint.as_ref().map_or((0, None), committed);
        let open: BTreeSet<u64> = window
            .iter()
            .flat_map(|window| in_state(&window.state))
            .collect();
        self.closed.retain(|closed| {
            // One without records cannot be told apart, and counts for nothing.
            !closed.records.is_empty()
                && closed
                    .records
                    .iter()
                    .all(|n| *n <= mark && !open.contains(n))
        });
        self.discarded
            .retain(|number| *number <= mark && !open.contains(number));
        self.engine = Engine::default();
        self.shard = self
            .engine
            .add_shard(config(self.mapping.clone()), checkpoint)
            .unwrap();
        self.running = None;
        self.failed = None;
        self.unconfirmed.clear();
        let want = self.engine.wants(self.shard, self.now).unwrap();
        let after = want.unwrap().after;
        let after: u64 = after.map_or(0, |position| position.sequence.as_str().parse().unwrap());
        self.offered = usize::try_from(after).unwrap();
    }

    fn step(&mut self, op: &Op) {
        match op {
            Op::Offer { records, at_tip } => {
                let until = self.log.len().min(self.offered + records);
                let fresh = page(&self.log[self.offered..until]);
                let behind = Some(i64::from(!at_tip));
                self.engine
                    .offer(self.shard, fresh, behind, self.now)
                    .unwrap();
                self.offered = until;
            }
            Op::Take if self.running.is_none() => {
                if let Taken::Task(Task::Run(batch)) = self.engine.take(self.now) {
                    self.check(&batch);
                    self.running = Some(batch);
                }
            }
            Op::Finish(how) => {
                if let Some(batch) = self.running.take() {
                    self.finish(&batch, *how);
                }
            }
            Op::Confirm(index) if !self.unconfirmed.is_empty() => {
                let at = index.index(self.unconfirmed.len());
                let id = self.unconfirmed.swap_remove(at);
                assert!(self.engine.confirm(id, Confirmation::Delivered));
            }
            Op::Pass(ms) => self.now += ms,
            Op::Save => {
                if let Some(snapshot) = self.engine.checkpoint(self.shard).unwrap() {
                    self.saved = Some(snapshot.checkpoint.encode());
                    self.engine.saved(self.shard, snapshot.version).unwrap();
                }
            }
            Op::Crash => self.begin(),
            Op::FetchFailed => self.engine.fetch_failed(self.shard).unwrap(),
            Op::Update(size) if self.running.is_none() && self.unconfirmed.is_empty() => {
                self.mapping.tumbling_window_ms = *size;
                self.engine
                    .update(self.shard, self.mapping.clone(), self.now)
                    .unwrap();
                self.failed = None;
            }
            Op::Take | Op::Confirm(_) | Op::Update(_) => {}
        }
        self.engine.check_invariants();
    }

    fn check(&mut self, batch: &Batch) {
        let window = batch.window().unwrap();
        let event = batch.json();
        assert!(event.len() <= batch.json_bytes() && batch.json_bytes() <= event.len() + 2);
        assert!(event.len() <= usize::try_from(self.mapping.payload_bytes_max).unwrap());
        assert_eq!(batch.is_empty(), window.is_final());
        assert!(!window.is_terminated_early() || window.is_final());
        for record in batch.records().iter() {
            assert!(
                record.arrival_ms() < window.end_ms(),
                "no record is of a later window"
            );
        }
        let own = (batch.request_id(), numbers(batch), window.state().to_vec());
        if let Some(failed) = self.failed.take().filter(|failed| failed.0 == own.0) {
            assert_eq!(
                failed, own,
                "a batch that is tried again has the same state"
            );
        }
        let known = in_state(window.state());
        assert!(known.iter().all(|number| !own.1.contains(number)));
    }

    fn finish(&mut self, batch: &Batch, how: How) {
        let all = batch.len();
        let response = Box::default();
        let (outcome, done, padding, ends) = match how {
            How::Success { padding, ends } => (Outcome::Success, all, padding, ends),
            How::Partial { at, padding, ends } if all > 0 => {
                let index = at.min(u32::try_from(all).unwrap() - 1);
                let outcome = Outcome::Partial { index, response };
                (outcome, usize::try_from(index).unwrap(), padding, ends)
            }
            How::Failure | How::Partial { .. } => (Outcome::Failure(response), 0, 0, false),
            How::Throttle => (Outcome::Throttled, 0, 0, false),
        };
        let window = batch.window().unwrap();
        let mut returned = grown(batch, done, padding, ends);
        if returned.state.len() > batch.state_bytes_max() {
            let refused = self.engine.finish(
                batch.ticket(),
                Outcome::Success,
                Some(returned.clone()),
                self.now,
            );
            assert_eq!(
                refused.is_err(),
                !window.is_final(),
                "a state that no closing call can hold is refused"
            );
            if refused.is_ok() {
                self.note_closed(batch);
                return;
            }
            returned = grown(batch, done, 0, ends);
        }
        let success = outcome == Outcome::Success;
        // A state beside an outcome that completes nothing is let go.
        let finished = self
            .engine
            .finish(batch.ticket(), outcome, Some(returned), self.now)
            .unwrap();
        if done == 0 && !(success && window.is_final()) {
            let own = window.state().to_vec();
            self.failed = Some((batch.request_id(), numbers(batch), own));
        }
        if success && window.is_final() {
            self.note_closed(batch);
        }
        self.note_discards(&finished.discards);
    }

    fn note_closed(&mut self, batch: &Batch) {
        let window = batch.window().unwrap();
        self.closed.push(Closed {
            start_ms: window.start_ms(),
            end_ms: window.end_ms(),
            early: window.is_terminated_early(),
            records: in_state(window.state()),
        });
    }

    fn note_discards(&mut self, discards: &[Discard]) {
        for discard in discards {
            let records = discard
                .records()
                .iter()
                .map(|record| record.sequence().parse::<u64>());
            self.discarded.extend(records.map(Result::unwrap));
            if discard.is_empty() {
                // A closing call that is given up takes its state with it.
                self.discarded
                    .extend(in_state(discard.window().unwrap().state()));
            }
            self.unconfirmed.push(discard.id());
        }
    }

    fn run_out(&mut self) {
        let success = How::Success {
            padding: 0,
            ends: false,
        };
        self.step(&Op::Finish(success));
        let rest = self.log.len();
        self.step(&Op::Offer {
            records: rest,
            at_tip: true,
        });
        self.engine.close(self.shard, self.now).unwrap();
        for _ in 0..10_000 {
            while !self.unconfirmed.is_empty() {
                let id = self.unconfirmed.swap_remove(0);
                self.engine.confirm(id, Confirmation::GivenUp);
            }
            match self.engine.take(self.now) {
                Taken::Task(Task::Run(batch)) => {
                    self.check(&batch);
                    self.finish(&batch, success);
                }
                Taken::Task(Task::Deliver(discard)) => self.note_discards(&[*discard]),
                Taken::Wait(Some(at)) => self.now = self.now.max(at),
                Taken::Wait(None) => break,
            }
        }
        assert_eq!(
            self.engine.stats(self.shard).unwrap().state,
            ShardState::Ended
        );
    }

    /// Each record is in one window and in one only, or was discarded.
    fn account(&self) {
        let mut seen = self.discarded.clone();
        let mut ends = BTreeSet::new();
        for closed in &self.closed {
            assert!(
                closed.early || ends.insert((closed.start_ms, closed.end_ms)),
                "I7: a window closes once: {:?}",
                self.closed
            );
            for number in &closed.records {
                let arrival_ms = self.log[usize::try_from(*number).unwrap() - 1].1;
                assert!(
                    arrival_ms < closed.end_ms,
                    "I7: a record is in no earlier window"
                );
                assert!(
                    seen.insert(*number),
                    "I7: record {number} is counted twice: {:?}",
                    self.closed
                );
            }
        }
        let all: BTreeSet<u64> = self.log.iter().map(|(number, _)| *number).collect();
        assert_eq!(seen, all, "I7: sums over windows are sums over records");
    }
}

/// The last completed record of a checkpoint, and its window.
fn committed(checkpoint: &Checkpoint) -> (u64, Option<WindowState>) {
    let marks = checkpoint.tags().flat_map(|tag| tag.marks.iter().flatten());
    let mark = marks.chain(checkpoint.watermark.as_ref()).max();
    let mark = mark.map_or(0, |mark| mark.sequence.as_str().parse().unwrap());
    (mark, checkpoint.window.as_deref().cloned())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn sums_over_windows_are_sums_over_records_whatever_happens(
        gaps in vec(prop_oneof![6 => 0_i64..12, 1 => -30_i64..0, 1 => 30_i64..90], 1..60),
        ops in vec(op(), 0..150),
        size in 1_i64..40,
        batch_size in 1_u32..7,
        bisect: bool,
        payload_bytes_max in 1_200_u32..2_600,
    ) {
        let mut arrival_ms = 0;
        let log = (1..).zip(&gaps).map(|(number, gap)| {
            arrival_ms += gap;
            (number, arrival_ms)
        });
        let mut world = World::new(log.collect(), MappingConfig {
            batch_size,
            tumbling_window_ms: size,
            retry_attempts_max: Some(1),
            bisect_batch_on_function_error: bisect,
            report_batch_item_failures: true,
            payload_bytes_max,
            ..MappingConfig::default()
        });
        for op in &ops {
            world.step(op);
        }
        world.run_out();
        world.account();
    }
}

// ---- the rules one by one ----

struct Bench {
    engine: Engine,
    shard: u32,
    now: i64,
}

fn tumbling(mut mapping: MappingConfig) -> MappingConfig {
    mapping.tumbling_window_ms = 10;
    mapping
}

impl Bench {
    fn new(mapping: MappingConfig) -> Self {
        Self::with(config(tumbling(mapping)), None)
    }

    fn with(config: ShardConfig, checkpoint: Option<Checkpoint>) -> Self {
        let mut engine = Engine::default();
        let shard = engine.add_shard(config, checkpoint).unwrap();
        Self {
            engine,
            shard,
            now: 0,
        }
    }

    fn offer(&mut self, records: &[(u64, i64)], behind: Option<i64>) {
        let page = page(records);
        self.engine
            .offer(self.shard, page, behind, self.now)
            .unwrap();
    }

    fn next(&mut self) -> Option<Batch> {
        match self.engine.take(self.now) {
            Taken::Task(Task::Run(batch)) => Some(batch),
            Taken::Task(Task::Deliver(discard)) => panic!("{discard:?}"),
            Taken::Wait(_) => None,
        }
    }

    /// When the lane is ready by itself.
    fn wake(&mut self) -> Option<i64> {
        let stats = self.engine.stats(self.shard).unwrap();
        match stats.lanes[0].state {
            LaneState::Waiting(until) | LaneState::Parked(until) => Some(until),
            LaneState::Empty => None,
            LaneState::Ready | LaneState::InFlight(_) => panic!("it does not wait"),
        }
    }

    fn succeed(&mut self, batch: &Batch) {
        self.finish(batch, Some(grown(batch, batch.len(), 0, false)));
    }

    fn finish(&mut self, batch: &Batch, returned: Option<ReturnedState>) {
        self.engine
            .finish(batch.ticket(), Outcome::Success, returned, self.now)
            .unwrap();
    }

    fn fail(&mut self, batch: &Batch) -> Vec<Discard> {
        let failure = Outcome::Failure(Box::default());
        let finished = self.engine.finish(batch.ticket(), failure, None, self.now);
        finished.unwrap().discards
    }

    fn checkpoint(&mut self) -> Checkpoint {
        let snapshot = self.engine.checkpoint(self.shard).unwrap().unwrap();
        Checkpoint::decode(&snapshot.checkpoint.encode()).unwrap()
    }

    /// Succeeds with everything that can run now; says what it was: bounds, records, state.
    fn run(&mut self) -> Vec<String> {
        let mut seen = Vec::new();
        while let Some(batch) = self.next() {
            let window = batch.window().unwrap();
            let early = if window.is_terminated_early() {
                " early"
            } else {
                ""
            };
            let records = if window.is_final() {
                "final".to_owned()
            } else {
                format!("{:?}", numbers(&batch))
            };
            seen.push(format!(
                "{}..{} {records}{early} {}",
                window.start_ms(),
                window.end_ms(),
                str::from_utf8(window.state())
                    .unwrap()
                    .replace(":0", "")
                    .replace('"', "")
            ));
            self.succeed(&batch);
        }
        seen
    }
}

#[test]
fn batches_end_with_windows_and_empty_windows_make_no_call() {
    let mut bench = Bench::new(MappingConfig::default());
    bench.offer(&[(1, 0), (2, 9), (3, 10), (4, 57)], Some(1));
    assert_eq!(
        bench.run(),
        [
            "0..10 [1, 2] {}",
            "0..10 final {1,2}",
            "10..20 [3] {}",
            "10..20 final {3}",
            "50..60 [4] {}",
        ]
    );
    assert_eq!(
        bench.wake(),
        None,
        "the window stays open until something ends it"
    );
    bench.engine.close(bench.shard, 0).unwrap();
    assert!(
        !bench.checkpoint().ended,
        "a shard does not end before its window"
    );
    assert_eq!(bench.run(), ["50..60 final {4}"]);
    assert!(bench.checkpoint().ended);
    assert_eq!(
        bench
            .engine
            .stats(bench.shard)
            .unwrap()
            .counters
            .windows_closed,
        3
    );
}

#[test]
fn a_late_record_is_in_the_open_window_and_else_in_the_first_that_was_not_closed() {
    let mut bench = Bench::new(MappingConfig::default());
    bench.offer(&[(1, 5), (2, 15), (3, 7), (4, 25)], Some(0));
    assert_eq!(
        bench.run(),
        [
            "0..10 [1] {}",
            "0..10 final {1}",
            "10..20 [2, 3] {}",
            "10..20 final {2,3}",
            "20..30 [4] {}",
        ]
    );
    bench.now = 200;
    assert_eq!(bench.run(), ["20..30 final {4}"]);
    bench.offer(&[(5, 22)], Some(0));
    assert_eq!(bench.run(), ["30..40 [5] {}"]);
}

#[test]
fn an_idle_window_closes_when_the_source_was_at_its_tip_without_a_break() {
    let mut bench = Bench::new(MappingConfig::default());
    bench.offer(&[(1, 5)], Some(0));
    bench.run();
    assert_eq!(
        bench.wake(),
        Some(10 + GRACE_MS),
        "from the window's end on"
    );
    bench.now = 30;
    bench.offer(&[(2, 6)], Some(0));
    bench.run();
    assert_eq!(bench.wake(), Some(30 + GRACE_MS), "from the last record on");
    bench.now = 60;
    bench.offer(&[], Some(3));
    assert_eq!(
        bench.wake(),
        None,
        "behind its tip the source may have more"
    );
    bench.now = 70;
    bench.offer(&[], Some(0));
    bench.engine.wants(bench.shard, bench.now).unwrap();
    bench.engine.fetch_failed(bench.shard).unwrap();
    assert_eq!(bench.wake(), None, "nobody knows what it has now");
    bench.now = 80;
    bench.offer(&[], Some(0));
    assert_eq!(bench.wake(), Some(80 + GRACE_MS));
    bench.now = 80 + GRACE_MS;
    bench.engine.wants(bench.shard, bench.now).unwrap().unwrap();
    assert_eq!(bench.wake(), None, "the answer under way may hold a record");
    bench.offer(&[(3, 7)], Some(0));
    assert_eq!(bench.run(), ["0..10 [3] {1,2}"]);
    bench.now = 1_000;
    bench.offer(&[], Some(0));
    assert_eq!(bench.run(), ["0..10 final {1,2,3}"]);
}

#[test]
fn recorded_data_never_idles() {
    let mut shard = config(tumbling(MappingConfig::default()));
    shard.clock = StreamClock::Replay;
    let mut bench = Bench::with(shard, None);
    bench.offer(&[(1, 5)], Some(0));
    bench.run();
    assert_eq!(bench.wake(), None);
}

#[test]
fn a_closing_call_is_retried_and_given_up_as_any_batch() {
    let mut bench = Bench::new(MappingConfig {
        retry_attempts_max: Some(1),
        bisect_batch_on_function_error: true,
        ..MappingConfig::default()
    });
    bench.offer(&[(1, 5), (2, 15)], Some(1));
    let first = bench.next().unwrap();
    bench.succeed(&first);
    let closing = bench.next().unwrap();
    assert!(bench.fail(&closing).is_empty());
    bench.now = bench.wake().unwrap();
    let again = bench.next().unwrap();
    assert_eq!(again.json(), closing.json());
    assert_eq!(
        (again.request_id(), again.attempt()),
        (closing.request_id(), 2)
    );
    let discards = bench.fail(&again);
    assert_eq!(discards.len(), 1);
    assert_eq!(discards[0].json(), closing.json());
    assert_eq!(
        discards[0]
            .invocation_record()
            .split_once("\"KinesisBatchInfo\":")
            .unwrap()
            .1,
        concat!(
            r#"{"shardId":"shardId-0","streamArn":"arn:aws:kinesis:us-east-1:123456789012:stream/s"},"#,
            r#""timeWindowInfo":{"window":{"start":"1970-01-01T00:00:00Z","end":"1970-01-01T00:00:00Z"},"#,
            r#""isFinalInvokeForWindow":true,"isWindowTerminatedEarly":false}}"#
        )
    );
    // The checkpoint waits for the discard, with the state that it told of.
    assert_eq!(bench.run(), ["10..20 [2] {}"]);
    let stored = bench.checkpoint();
    assert_eq!(committed(&stored).0, 1);
    assert_eq!(stored.window.unwrap().state, state_of(&[1], 0));
    bench
        .engine
        .confirm(discards[0].id(), Confirmation::Delivered);
    let stored = bench.checkpoint();
    assert_eq!(committed(&stored).0, 2);
    assert_eq!(stored.window.unwrap().state, state_of(&[2], 0));
}

#[test]
fn a_closing_call_grows_old_from_when_it_was_due() {
    let mut bench = Bench::new(MappingConfig {
        record_age_max_ms: Some(60_000),
        ..MappingConfig::default()
    });
    bench.offer(&[(1, 5)], Some(0));
    bench.run();
    bench.now = 200_000;
    let closing = bench.next().unwrap();
    bench.fail(&closing);
    bench.now += 60_001;
    let Taken::Task(Task::Deliver(discard)) = bench.engine.take(bench.now) else {
        panic!("nothing is given up");
    };
    assert_eq!(discard.condition(), Condition::RecordAgeExceeded);
    assert!(discard.is_empty() && discard.response().is_none());
}

#[test]
fn a_state_that_is_too_large_ends_the_window_and_the_window_begins_again() {
    let mut bench = Bench::new(MappingConfig {
        batch_size: 3,
        ..MappingConfig::default()
    });
    bench.offer(&[(1, 1), (2, 2), (3, 3), (4, 4), (5, 11)], Some(0));
    let batch = bench.next().unwrap();
    let partial = Outcome::Partial {
        index: 2,
        response: Box::default(),
    };
    let returned = grown(&batch, 2, 0, true);
    bench
        .engine
        .finish(batch.ticket(), partial, Some(returned), 0)
        .unwrap();
    // It is in the checkpoint: a restart here makes the same call.
    let stored = bench.checkpoint();
    assert_eq!(
        stored.window.as_ref().unwrap().phase,
        WindowPhase::EndsEarly
    );
    let mut restarted = Bench::with(config(tumbling(MappingConfig::default())), Some(stored));
    assert_eq!(restarted.run(), ["0..10 final early {1,2}"]);
    assert_eq!(
        bench.run(),
        [
            "0..10 final early {1,2}",
            "0..10 [3] {}",
            "0..10 [4] {3}",
            "0..10 final {3,4}",
            "10..20 [5] {}",
        ]
    );
    // Without a further record the window that was ended is not closed again.
    let batch = {
        bench.offer(&[(6, 12)], Some(0));
        bench.next().unwrap()
    };
    let returned = grown(&batch, 1, 0, true);
    bench
        .engine
        .finish(batch.ticket(), Outcome::Success, Some(returned), 0)
        .unwrap();
    bench.offer(&[(7, 25)], Some(0));
    assert_eq!(bench.run(), ["10..20 final early {5,6}", "20..30 [7] {}"]);
    let counters = bench.engine.stats(bench.shard).unwrap().counters;
    assert_eq!(
        (counters.windows_closed, counters.windows_ended_early),
        (1, 2)
    );
}

#[test]
fn the_right_half_gets_what_the_left_half_left() {
    let mut bench = Bench::new(MappingConfig {
        bisect_batch_on_function_error: true,
        retry_attempts_max: Some(0),
        ..MappingConfig::default()
    });
    bench.offer(&[(1, 1), (2, 2), (3, 3), (4, 4)], Some(0));
    let whole = bench.next().unwrap();
    bench.fail(&whole);
    let left = bench.next().unwrap();
    assert_eq!(
        (numbers(&left), left.window().unwrap().state()),
        (vec![1, 2], b"{}".as_slice())
    );
    bench.succeed(&left);
    let right = bench.next().unwrap();
    assert_eq!(right.window().unwrap().state(), state_of(&[1, 2], 0));
    bench.fail(&right);
    let third = bench.next().unwrap();
    for discard in bench.fail(&third) {
        assert_eq!(discard.window().unwrap().state(), state_of(&[1, 2], 0));
        bench.engine.confirm(discard.id(), Confirmation::Delivered);
    }
    let fourth = bench.next().unwrap();
    assert_eq!(
        fourth.window().unwrap().state(),
        state_of(&[1, 2], 0),
        "the old state stays"
    );
}

#[test]
fn a_state_that_grows_leaves_less_room_for_records() {
    let payload_bytes_max = 1_800;
    let mut bench = Bench::new(MappingConfig {
        payload_bytes_max,
        ..MappingConfig::default()
    });
    bench.offer(&[(1, 1), (2, 2), (3, 3), (4, 4), (5, 5)], Some(0));
    let first = bench.next().unwrap();
    let count = first.len();
    assert!(count > 2 && first.json_bytes() <= 1_800);
    let partial = Outcome::Partial {
        index: 1,
        response: Box::default(),
    };
    let spare = 1_800 - first.json_bytes();
    let returned = grown(&first, 1, 500 + spare, false);
    bench
        .engine
        .finish(first.ticket(), partial, Some(returned), 0)
        .unwrap();
    let second = bench.next().unwrap();
    assert!(!second.is_empty() && second.len() < count - 1 && second.json_bytes() <= 1_800);
    let too_large = ReturnedState {
        state: vec![b' '; second.state_bytes_max() + 1],
        ends_window: true,
    };
    let refused = bench
        .engine
        .finish(second.ticket(), Outcome::Success, Some(too_large), 0);
    assert!(matches!(refused, Err(UsageError::StateTooLarge { .. })));
    let most = ReturnedState {
        state: vec![b' '; second.state_bytes_max()],
        ends_window: true,
    };
    bench
        .engine
        .finish(second.ticket(), Outcome::Success, Some(most), 0)
        .unwrap();
    let closing = bench.next().unwrap();
    assert!(closing.window().unwrap().is_terminated_early() && closing.json_bytes() == 1_800);
}

#[test]
fn a_window_keeps_its_bounds_when_the_size_changes() {
    let mut bench = Bench::new(MappingConfig::default());
    bench.offer(&[(1, 5)], Some(0));
    bench.run();
    let larger = MappingConfig {
        tumbling_window_ms: 100,
        ..MappingConfig::default()
    };
    let stored = bench.checkpoint();
    bench.engine.update(bench.shard, larger.clone(), 0).unwrap();
    let restarted = Bench::with(config(larger), Some(stored));
    for mut bench in [bench, restarted] {
        bench.offer(&[(2, 6), (3, 12), (4, 120)], Some(0));
        assert_eq!(
            bench.run(),
            [
                "0..10 [2] {1}",
                "0..10 final {1,2}",
                "0..100 [3] {}",
                "0..100 final {3}",
                "100..200 [4] {}",
            ]
        );
    }
}

#[test]
fn a_mapping_that_has_windows_no_more_closes_the_open_one_first() {
    let mut bench = Bench::new(MappingConfig::default());
    bench.offer(&[(1, 5)], Some(0));
    bench.run();
    let stored = bench.checkpoint();
    let none = MappingConfig {
        parallelization_factor: 2,
        ..MappingConfig::default()
    };
    let mut bench = Bench::with(config(none), Some(stored));
    bench.offer(&[(2, 6)], Some(0));
    let closing = bench.next().unwrap();
    assert!(closing.window().unwrap().is_final());
    bench.succeed(&closing);
    let batch = bench.next().unwrap();
    assert!(batch.window().is_none());
    assert_eq!(numbers(&batch), [2]);
}

/// The closing call is lane 0's, and has a window. Another lane's batch, in flight beside it, has none, and fills its event without one.
#[test]
fn a_batch_beside_the_last_closing_call_has_no_window() {
    let none = MappingConfig {
        parallelization_factor: 2,
        payload_bytes_max: 2_000,
        ..MappingConfig::default()
    };
    let mut bench = Bench::new(MappingConfig {
        parallelization_factor: 1,
        ..none.clone()
    });
    bench.offer(&[(1, 5)], Some(0));
    let batch = bench.next().unwrap();
    let state = grown(&batch, 1, 800, false);
    bench.finish(&batch, Some(state));
    bench.engine.update(bench.shard, none, 0).unwrap();
    let mut keys = (0..).map(|number| format!("key-{number}"));
    let key = keys.find(|key| lane(key_hash(key.as_bytes()), 2) == 1);
    let mut builder = PageBuilder::new();
    builder
        .push(&key.unwrap(), &[0; 1_000], 6, Some("2"))
        .unwrap();
    let page = builder.finish();
    bench.engine.offer(bench.shard, page, Some(0), 0).unwrap();
    let (closing, batch) = (bench.next().unwrap(), bench.next().unwrap());
    let state_bytes = closing.window().unwrap().state().len();
    assert!(closing.window().unwrap().is_final() && batch.window().is_none());
    assert!(batch.json_bytes() <= 2_000 && batch.json_bytes() + state_bytes > 2_000);
    bench.engine.check_invariants();
    bench.succeed(&closing);
    bench.finish(&batch, None);
    assert!(bench.engine.is_done());
}

#[test]
fn one_lane_and_sizes_up_to_a_quarter_of_an_hour() {
    for (size, factor, text) in [
        (
            900_001,
            1,
            "tumbling_window_ms is 900001, and must be 0 to 900000",
        ),
        (
            1000,
            2,
            "parallelization_factor is 2, and must be 1 with a tumbling window",
        ),
    ] {
        let mapping = MappingConfig {
            tumbling_window_ms: size,
            parallelization_factor: factor,
            ..MappingConfig::default()
        };
        assert_eq!(mapping.validate().unwrap_err().to_string(), text);
    }
}

#[test]
fn the_event_of_a_window_in_the_order_of_its_keys() {
    let start = 1_596_128_400_000;
    let mut bench = Bench::with(
        config(MappingConfig {
            tumbling_window_ms: 300_000,
            ..MappingConfig::default()
        }),
        None,
    );
    bench.offer(&[(7, start + 1)], Some(0));
    let batch = bench.next().unwrap();
    let event = String::from_utf8(batch.json()).unwrap();
    assert_eq!(
        event.split_once("}],").unwrap().1,
        concat!(
            r#""shardId":"shardId-0","eventSourceARN":"arn:aws:kinesis:us-east-1:123456789012:stream/s","#,
            r#""window":{"start":"2020-07-30T17:00:00Z","end":"2020-07-30T17:05:00Z"},"state":{},"#,
            r#""isFinalInvokeForWindow":false,"isWindowTerminatedEarly":false}"#
        )
    );
    bench.succeed(&batch);
    bench.engine.close(bench.shard, 0).unwrap();
    let closing = bench.next().unwrap();
    assert_eq!(
        String::from_utf8(closing.json()).unwrap(),
        concat!(
            r#"{"Records":[],"shardId":"shardId-0","eventSourceARN":"arn:aws:kinesis:us-east-1:123456789012:stream/s","#,
            r#""window":{"start":"2020-07-30T17:00:00Z","end":"2020-07-30T17:05:00Z"},"state":{"7":0},"#,
            r#""isFinalInvokeForWindow":true,"isWindowTerminatedEarly":false}"#
        )
    );
}

/// A checkpoint that a version without windows wrote.
#[test]
fn a_checkpoint_of_format_1_is_read() {
    let key = CheckpointKey {
        mapping_uuid: "mapping".into(),
        stream_identity: "stream".into(),
        shard_id: "shardId-0".into(),
    };
    let blob = Checkpoint::fresh(key, Start::TrimHorizon).encode();
    assert_eq!(
        blob[8..10],
        1_u16.to_le_bytes(),
        "without a window the form is that of before"
    );
    assert!(Checkpoint::decode(&blob).unwrap().window.is_none());
}
