//! One seed: a source, a store, a function and a destination around one engine, each of them as bad as the options say.

mod edges;
mod life;

use std::rc::Rc;

use streamcore::{
    Batch, Checkpoint, CheckpointKey, DiscardId, Engine, Event, MappingConfig, MappingIdentity,
    ShardConfig, ShardState, Ticket,
};

use super::log::{self, Log};
use super::options::{BEGIN_MS, Options};
use super::reach::{Fault, Reach};
use super::reference::{Known, Reference};
use super::rng::Rng;

/// What a seed has shown.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) reach: Reach,
    pub(crate) steps: u64,
    pub(crate) faults: u64,
    pub(crate) simulated_ms: i64,
    pub(crate) hash: u64,
}

#[derive(Debug)]
struct Flight {
    batch: Batch,
    ticket: Ticket,
    records: Vec<usize>,
    number: u64,
    hangs: bool,
    /// The state of the tumbling window that the function got.
    state: Option<Vec<u8>>,
}

#[derive(Debug)]
struct Stored {
    blob: Vec<u8>,
    known: Known,
}

#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "they are independent of each other"
)]
pub(crate) struct World {
    seed: u64,
    rng: Rng,
    options: Options,
    log: Rc<Log>,
    reference: Reference,
    engine: Engine,
    shard: u32,
    now: i64,
    runs: u64,
    in_flight: Vec<Flight>,
    /// Discards on their way, with the number of the step before which they do not arrive.
    deliveries: Vec<(DiscardId, u64)>,
    fetched: Option<std::ops::Range<usize>>,
    saving: Option<(u64, Stored)>,
    stored: Option<Stored>,
    old_tickets: Vec<Ticket>,
    old_discards: Vec<DiscardId>,
    paused: bool,
    draining: bool,
    closed: bool,
    ended: bool,
    page_bytes_max: usize,
    /// No more faults.
    kind: bool,
    whole_events: bool,
    reach: Reach,
    steps: u64,
    hash: Option<u64>,
    tell: bool,
}

fn shard_config(options: &Options, mapping: MappingConfig, seed: u64) -> ShardConfig {
    let key = CheckpointKey {
        mapping_uuid: "mapping".into(),
        stream_identity: "first".into(),
        shard_id: log::SHARD_ID.into(),
    };
    let identity = MappingIdentity {
        event_source_arn: log::STREAM_ARN.into(),
        function_arn: "arn:f".into(),
        execution_role_arn: log::ROLE_ARN.into(),
        aws_region: log::REGION.into(),
    };
    ShardConfig {
        retention_ms: options.retention_ms,
        clock: options.clock,
        sync_checkpoints: options.sync_checkpoints,
        window_grace_ms: options.window_grace_ms,
        relief_step_bytes: options.relief_step_bytes.unwrap_or(1 << 40),
        seed,
        ..ShardConfig::new(key, identity, mapping)
    }
}

impl World {
    pub(crate) fn new(seed: u64, hash: bool, tell: bool) -> Self {
        let mut rng = Rng::new(seed);
        let options = Options::draw(&mut rng);
        let log = Rc::new(Log::draw(&options, &mut rng));
        if tell {
            println!("{options:#?}");
        }
        let mut engine = Engine::new(options.budget_bytes);
        engine.enable_trace();
        let config = shard_config(&options, options.mapping.clone(), seed);
        let shard = engine.add_shard(config, None).unwrap();
        Self {
            reference: Reference::new(Rc::clone(&log), &options),
            seed,
            rng,
            log,
            engine,
            shard,
            now: BEGIN_MS,
            runs: 1,
            in_flight: Vec::new(),
            deliveries: Vec::new(),
            fetched: None,
            saving: None,
            stored: None,
            old_tickets: Vec::new(),
            old_discards: Vec::new(),
            paused: false,
            draining: false,
            closed: false,
            ended: false,
            page_bytes_max: 0,
            kind: false,
            whole_events: seed.is_multiple_of(8),
            reach: Reach::default(),
            steps: 0,
            hash: hash.then_some(0xcbf2_9ce4_8422_2325),
            tell,
            options,
        }
    }

    pub(crate) fn run(mut self) -> Report {
        for _ in 0..self.options.steps {
            self.step();
        }
        self.be_kind();
        Report {
            steps: self.steps,
            faults: self.reach.faults(),
            reach: self.reach,
            simulated_ms: self.now - BEGIN_MS,
            hash: self.hash.unwrap_or(0),
        }
    }

    fn chance(&mut self, per_mille: u32) -> bool {
        !self.kind && self.rng.chance(per_mille)
    }

    fn hit(&mut self, fault: Fault) {
        self.reach.fault(fault);
        self.say(|| format!("! {fault:?}"));
    }

    fn say(&self, text: impl FnOnce() -> String) {
        if self.tell {
            println!("{:>8} {}", self.now - BEGIN_MS, text());
        }
    }

    // ---- steps ----

    fn step(&mut self) {
        let finish = self.options.finish_weight;
        // A crash is likelier while a save is under way.
        let crash = if self.saving.is_some() { 12 } else { 2 };
        let weights = [12, 22, finish, 6, 6, 8, 1, crash, 2];
        let mut dice = self.rng.below(weights.iter().sum());
        let choice = weights.iter().position(|weight| {
            let hit = dice < *weight;
            dice = dice.wrapping_sub(*weight);
            hit
        });
        match choice.unwrap() {
            0 => self.poll(),
            1 => {
                let _ = self.take();
            }
            2 => self.finish_one(),
            3 => self.confirm_one(),
            4 => self.save(),
            5 => self.pass_time(),
            6 => self.live(),
            7 if self.chance(self.options.crash * 8) => self.crash(),
            8 if self.chance(self.options.misuse * 8) => self.misuse(),
            _ => {}
        }
        self.after_step();
    }

    fn after_step(&mut self) {
        self.steps += 1;
        self.engine.check_invariants();
        // A budget is kept but for one page, and another of which a part has moved; discards that wait hold copies of records that were
        // counted before.
        let pages = 1 + usize::from(self.options.relief_step_bytes.is_some());
        if self.reference.unconfirmed() == 0 {
            assert!(
                self.engine.held_bytes() <= self.options.budget_bytes + pages * self.page_bytes_max,
                "I10: the budget and one page, two where one is half moved"
            );
        }
    }

    /// Reads the trace of the last call, and compares it.
    fn observe(&mut self, batch: Option<&Batch>) -> Option<Vec<usize>> {
        let trace: Vec<Event> = self
            .engine
            .drain_trace()
            .into_iter()
            .map(|(_, event)| event)
            .collect();
        for event in &trace {
            self.reach.event(event);
            self.ended |= *event == Event::Ended;
            self.say(|| event.to_string());
            if let Event::Compacted {
                in_flight: true, ..
            } = event
            {
                self.check_in_flight();
            }
            if let Some(hash) = &mut self.hash {
                for byte in event.to_string().bytes() {
                    *hash = (*hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
                }
            }
        }
        let (records, by_bytes) =
            self.reference
                .compare(&trace, batch, self.whole_events, self.now)?;
        if by_bytes {
            self.reach.fault(Fault::BatchFullByBytes);
        }
        Some(records)
    }

    /// Records of a batch in flight have moved: its function must not notice.
    fn check_in_flight(&self) {
        for flight in &self.in_flight {
            let Flight { batch, records, .. } = flight;
            self.reference.check_batch(batch, records, true);
        }
    }

    // ---- the end ----

    /// No more faults: everything must come to its end in a bounded number of steps.
    fn be_kind(&mut self) {
        self.kind = true;
        if self.paused || self.draining {
            self.resume();
        }
        let rounds_max = 20 * self.log.len() + 1_000;
        let mut rounds = 0;
        loop {
            rounds += 1;
            assert!(
                rounds < rounds_max,
                "I11: no end after {rounds} rounds without faults"
            );
            self.poll();
            if self.reference.taken_in == self.log.len() {
                self.close();
            }
            let until = loop {
                match self.take() {
                    Ok(()) => self.after_step(),
                    Err(until) => break until,
                }
            };
            let mut moved = !self.in_flight.is_empty();
            while !self.in_flight.is_empty() {
                self.finish_one();
                self.after_step();
            }
            for (_, at) in &mut self.deliveries {
                *at = 0;
            }
            while !self.deliveries.is_empty() {
                self.confirm_one();
                moved = true;
            }
            moved |= self.reference.is_dirty();
            self.save();
            self.after_step();
            if self.closed && self.reference.is_idle() && !self.reference.is_dirty() {
                break;
            }
            if !moved {
                let arrives = self
                    .log
                    .entries
                    .get(self.reference.taken_in)
                    .map(|entry| entry.arrival_ms);
                let later = [until, arrives]
                    .into_iter()
                    .flatten()
                    .filter(|at| *at > self.now)
                    .min();
                let unread = self.log.arrived(self.now) > self.reference.taken_in;
                assert!(
                    later.is_some() || unread || until.is_some(),
                    "I11: records are left and nothing will wake"
                );
                self.now = later.unwrap_or(self.now + 1);
            }
        }
        self.at_rest();
    }

    fn at_rest(&mut self) {
        for (record, ended) in self.reference.ended.iter().enumerate() {
            assert!(
                *ended,
                "I1: record {record} has neither succeeded, nor been given up, nor expired"
            );
        }
        let stats = self.engine.stats(self.shard).unwrap();
        self.reference.account_for_windows(&stats.counters);
        assert_eq!(stats.state, ShardState::Ended);
        assert_eq!(
            stats.counters.filtered,
            self.reference.filtered_records(),
            "what is filtered out is counted once"
        );
        assert_eq!(
            (stats.held_records, stats.held_bytes, stats.span),
            (0, 0, 0),
            "I10: nothing is held at the end"
        );
        assert_eq!(
            (
                stats.in_flight,
                stats.unconfirmed_discards,
                self.engine.held_bytes()
            ),
            (0, 0, 0),
            "I10"
        );
        assert!(self.ended, "the trace tells of the end");
        let last = Checkpoint::decode(&self.stored.as_ref().unwrap().blob).unwrap();
        assert!(last.ended, "the end is saved");
        let watermark = last
            .watermark
            .map(|position| position.sequence.as_str().to_owned());
        assert_eq!(
            watermark.as_deref(),
            self.reference.last_taken_in(),
            "the watermark is at the last record"
        );
    }
}
