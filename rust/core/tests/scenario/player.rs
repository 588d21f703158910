//! Plays a scenario: one command after the other against an engine, and against sets that know what must be complete.

mod accounts;
mod discards;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use streamcore::{
    Batch, Checkpoint, CheckpointKey, DiscardId, Engine, Event, Finished, MappingConfig,
    MappingIdentity, Offered, Outcome, Page, PageBuilder, Position, ReturnedState, ShardConfig,
    Snapshot, Taken, Task, Ticket, UsageError,
};

use super::script::{Function, configure, list, millis, numbers, outcome, records, seconds};
use super::truth::{Truth, Written};

/// A run that has invoked the function so often is held to have no end.
const INVOCATIONS_MAX: usize = 5_000;

/// How a scenario is played. What does not depend on the way must be the same in all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    AsWritten,
    /// Each offer comes as two pages.
    SplitOffers,
    /// With a `ParallelizationFactor` of 10 where it was 1, and behind each record one of a key in a lane that the scenario does not use.
    OtherLanes,
}

/// What the function and the destination saw, to be compared between ways.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    /// The whole line, with time and request id.
    pub(crate) line: String,
    /// The key of its first record.
    pub(crate) key: String,
    /// What does not depend on other lanes.
    pub(crate) what: String,
}

/// Ticket, numbers, and window state.
type Handed = (Ticket, Vec<u64>, Option<Vec<u8>>);

pub(crate) struct Player {
    way: Way,
    keys: Vec<String>,
    engine: Engine,
    config: ShardConfig,
    budget: Option<usize>,
    shard: u32,
    pub(crate) now: i64,
    function: Function,
    truth: Truth,
    /// The last snapshot, and what it knew; the same of the one that was saved.
    snapshot: Option<(Snapshot, BTreeSet<u64>)>,
    saved: Option<(Vec<u8>, BTreeSet<u64>)>,
    requests: Vec<String>,
    /// Batches handed out to `take` or `run`, by request name: their last ticket, numbers, and window state.
    batches: BTreeMap<String, Handed>,
    discards: Vec<(DiscardId, Vec<u64>)>,
    unconfirmed: BTreeSet<usize>,
    trace: Vec<Event>,
    out: String,
    pub(crate) seen: Vec<Seen>,
    pub(crate) refused: bool,
}

fn key() -> CheckpointKey {
    CheckpointKey {
        mapping_uuid: "mapping".into(),
        stream_identity: "stream".into(),
        shard_id: "shardId-000000000000".into(),
    }
}

fn position(position: Option<&Position>) -> String {
    position.map_or_else(
        || "-".into(),
        |position| position.sequence.as_str().to_owned(),
    )
}

/// A page of these records.
fn page(records: &[Written]) -> Page {
    let mut builder = PageBuilder::new();
    for record in records {
        let number = record.number.to_string();
        builder
            .push(
                &record.key,
                &vec![b'x'; record.bytes],
                record.arrival_ms,
                Some(&number),
            )
            .unwrap();
    }
    builder.finish()
}

impl Player {
    /// `keys` are all that the scenario has.
    pub(crate) fn new(way: Way, keys: Vec<String>) -> Self {
        Self {
            way,
            keys,
            engine: Engine::default(),
            config: ShardConfig::new(key(), MappingIdentity::default(), MappingConfig::default()),
            budget: None,
            shard: 0,
            now: 0,
            function: Function::default(),
            truth: Truth::default(),
            snapshot: None,
            saved: None,
            requests: Vec::new(),
            batches: BTreeMap::new(),
            discards: Vec::new(),
            unconfirmed: BTreeSet::new(),
            trace: Vec::new(),
            out: String::new(),
            seen: Vec::new(),
            refused: false,
        }
    }

    /// Runs one command and returns what it did, a line each.
    pub(crate) fn play(&mut self, command: &str) -> String {
        let words: Vec<&str> = command.split_whitespace().collect();
        let (name, words) = words.split_first().expect("a command has a name");
        match *name {
            "shard" => self.start(words, None),
            "restart" => self.restart(words),
            "add" => self.add(words),
            "at" => self.at(words),
            "offer" => self.offer(words),
            "wants" => self.wants(),
            "function" => self.function = Function::parse(words),
            "run" => self.run(words),
            "take" => self.take(),
            "finish" => self.finish(words),
            "confirm" => self.confirm(words),
            "checkpoint" => self.checkpoint(),
            "save" => self.save(),
            "close" => self.engine.close(self.shard, self.now).unwrap(),
            "pause" => self.engine.pause(self.shard).unwrap(),
            "resume" => self.engine.resume(self.shard, self.now).unwrap(),
            "drain" => self.engine.drain(self.shard, self.now).unwrap(),
            "update" => self.update(words),
            "remove" => self.remove(),
            "stats" => self.stats(),
            "trace" => self.print_trace(),
            other => panic!("no command {other:?}"),
        }
        self.collect_trace();
        self.engine.check_invariants();
        self.check_restarts();
        std::mem::take(&mut self.out)
    }

    fn say(&mut self, line: &str) {
        self.out.push_str(line);
        self.out.push('\n');
    }

    fn scale(&self) -> u64 {
        if self.way == Way::OtherLanes { 10 } else { 1 }
    }

    /// Numbers as the scenario writes them; empty for records that only this way has.
    fn shown(&self, numbers: &[u64]) -> Vec<u64> {
        let own = numbers.iter().filter(|number| **number % self.scale() == 0);
        own.map(|number| number / self.scale()).collect()
    }

    fn factor(&self) -> u8 {
        self.config.mapping.parallelization_factor
    }

    // ---- life cycle ----

    fn start(&mut self, words: &[&str], checkpoint: Option<Checkpoint>) {
        let mut own = Vec::new();
        for word in words {
            match word.strip_prefix("budget=") {
                Some(bytes) => self.budget = Some(bytes.parse().unwrap()),
                None => own.push(*word),
            }
        }
        configure(&mut self.config, &own);
        if self.way == Way::OtherLanes && self.factor() == 1 {
            self.config.mapping.parallelization_factor = 10;
        }
        self.engine = self.budget.map_or_else(Engine::default, Engine::new);
        self.engine.enable_trace();
        self.begin(checkpoint);
    }

    fn begin(&mut self, checkpoint: Option<Checkpoint>) {
        let known = checkpoint
            .as_ref()
            .map_or_else(BTreeSet::new, |_| self.saved.as_ref().unwrap().1.clone());
        self.truth.restart(known, self.factor());
        // Request ids of another run are others.
        self.config.seed += 1;
        self.unconfirmed.clear();
        self.snapshot = None;
        match self.engine.add_shard(self.config.clone(), checkpoint) {
            Ok(shard) => self.shard = shard,
            Err(error) => self.say(&format!("error: {error}")),
        }
    }

    fn restored(&self) -> Option<Checkpoint> {
        self.saved
            .as_ref()
            .map(|(blob, _)| Checkpoint::decode(blob).unwrap())
    }

    fn restart(&mut self, words: &[&str]) {
        self.start(words, self.restored());
    }

    fn add(&mut self, words: &[&str]) {
        configure(&mut self.config, words);
        self.begin(self.restored());
    }

    fn update(&mut self, words: &[&str]) {
        let mut config = self.config.clone();
        configure(&mut config, words);
        match self
            .engine
            .update(self.shard, config.mapping.clone(), self.now)
        {
            Ok(()) => {
                self.config = config;
                self.truth.update(self.factor());
            }
            Err(error) => self.say(&format!("error: {error}")),
        }
    }

    fn remove(&mut self) {
        match self.engine.remove(self.shard) {
            Ok(_) => {
                let known = self.saved.as_ref().map(|saved| saved.1.clone());
                self.truth.restart(known.unwrap_or_default(), self.factor());
                self.unconfirmed.clear();
            }
            Err(error) => self.say(&format!("error: {error}")),
        }
    }

    fn at(&mut self, words: &[&str]) {
        let text = words[0];
        let now = text
            .strip_prefix('+')
            .map_or_else(|| millis(text), |by| self.now + millis(by));
        assert!(now >= self.now, "time does not go back");
        self.now = now;
    }

    // ---- intake ----

    fn offer(&mut self, words: &[&str]) {
        let behind = words.iter().find_map(|word| word.strip_prefix("behind="));
        let words: Vec<_> = words
            .iter()
            .copied()
            .filter(|word| !word.starts_with("behind="))
            .collect();
        let mut written = records(&words, self.now);
        if self.way == Way::OtherLanes {
            written = self.with_others(&written);
        }
        let mut pages = vec![written.as_slice()];
        if self.way == Way::SplitOffers && written.len() > 1 {
            let (left, right) = written.split_at(written.len() / 2);
            pages = vec![left, right];
        }
        let mut sum = Offered {
            accepted: true,
            records: 0,
            duplicates: 0,
            complete: 0,
            filtered: 0,
        };
        for records in pages {
            match self.offer_page(records, behind.map(|behind| behind.parse().unwrap())) {
                Ok(offered) => {
                    sum.accepted &= offered.accepted;
                    sum.records += offered.records;
                    sum.duplicates += offered.duplicates;
                    sum.complete += offered.complete;
                }
                Err(error) => {
                    self.refused = true;
                    return self.say(&format!("error: {error}"));
                }
            }
        }
        self.refused |= !sum.accepted;
        let mut line = if sum.accepted {
            format!("{} taken in", sum.records)
        } else {
            "no room".into()
        };
        for (count, name) in [
            (sum.duplicates, "duplicates"),
            (sum.complete, "complete already"),
        ] {
            if count > 0 {
                let _ = write!(line, ", {count} {name}");
            }
        }
        self.say(&line);
    }

    fn offer_page(
        &mut self,
        records: &[Written],
        behind: Option<i64>,
    ) -> Result<Offered, UsageError> {
        let before = self.engine.stats(self.shard)?.last_taken_in;
        let offered = self
            .engine
            .offer(self.shard, page(records), behind, self.now)?;
        if !offered.accepted {
            return Ok(offered);
        }
        // A record is a duplicate if its position is not above all of those before it.
        let mut highest: Option<u64> =
            before.map(|position| position.sequence.as_str().parse().unwrap());
        let (mut duplicates, mut complete) = (0, 0);
        for record in records {
            if highest.is_some_and(|highest| record.number <= highest) {
                duplicates += 1;
                continue;
            }
            highest = Some(record.number);
            complete += u32::from(self.truth.take_in(record));
        }
        assert_eq!(
            (offered.duplicates, offered.complete),
            (duplicates, complete),
            "duplicates and complete records"
        );
        Ok(offered)
    }

    /// The records, and behind each one of a key that is in a lane of its own.
    fn with_others(&self, records: &[Written]) -> Vec<Written> {
        let lane_of = |key: &String| self.truth.lane_of(key);
        let used: BTreeSet<_> = self.keys.iter().map(lane_of).collect();
        let key = (0..1_000)
            .map(|n| format!("other-{n}"))
            .find(|key| !used.contains(&lane_of(key)));
        records
            .iter()
            .flat_map(|record| {
                let own = Written {
                    number: record.number * 10,
                    ..record.clone()
                };
                let other = key.iter().map(|key| Written {
                    number: record.number * 10 + 5,
                    key: key.clone(),
                    ..record.clone()
                });
                [own].into_iter().chain(other)
            })
            .collect()
    }

    fn wants(&mut self) {
        let line = match self.engine.wants(self.shard, self.now).unwrap() {
            None => "no".into(),
            Some(want) => format!(
                "after {}, at most {}",
                position(want.after.as_ref()),
                want.limit
            ),
        };
        self.say(&line);
    }

    // ---- batches ----

    /// `run [until=T] [max=N] [confirm=no] [quiet]`: invokes the function with whatever is ready, and lets time pass to what is next.
    fn run(&mut self, words: &[&str]) {
        let option = |name: &str| words.iter().find_map(|word| word.strip_prefix(name));
        let until = option("until=").map(millis);
        let max = option("max=").map_or(INVOCATIONS_MAX, |max| max.parse().unwrap());
        let (confirm, quiet) = (option("confirm=") != Some("no"), words.contains(&"quiet"));
        let (mut invocations, kept) = (0, self.out.clone());
        loop {
            let taken = self.engine.take(self.now);
            self.collect_trace();
            match taken {
                Taken::Task(Task::Run(batch)) => {
                    self.check_batch(&batch);
                    let engine_numbers = numbers(&batch.records());
                    let shown = self.shown(&engine_numbers);
                    let (word, outcome) = self.function.answer(&shown, batch.json_bytes());
                    self.say_batch(&batch, Some(&word));
                    let finished = self
                        .finish_batch(
                            batch.ticket(),
                            &engine_numbers,
                            state(&batch),
                            outcome,
                            false,
                        )
                        .unwrap();
                    self.give_up(&finished, confirm);
                    invocations += usize::from(!shown.is_empty() || batch.is_empty());
                    assert!(
                        invocations < INVOCATIONS_MAX,
                        "this run has no end:\n{}",
                        &self.out[..500]
                    );
                    if invocations == max {
                        break;
                    }
                }
                Taken::Task(Task::Deliver(discard)) => {
                    let finished = Finished {
                        stale: false,
                        discards: vec![*discard],
                    };
                    self.give_up(&finished, confirm);
                }
                Taken::Wait(Some(at)) if until.is_none_or(|until| at <= until) => {
                    assert!(at > self.now, "time must pass");
                    self.now = at;
                }
                Taken::Wait(at) => {
                    if let Some(at) = at {
                        self.say(&format!("waits until {}", seconds(at)));
                    }
                    break;
                }
            }
        }
        self.now = self.now.max(until.unwrap_or(self.now));
        if quiet {
            self.out = kept;
            self.say(&format!(
                "{invocations} invocations, {} discards unconfirmed",
                self.unconfirmed.len()
            ));
        }
    }

    fn take(&mut self) {
        let taken = self.engine.take(self.now);
        self.collect_trace();
        match taken {
            Taken::Task(Task::Run(batch)) => {
                self.check_batch(&batch);
                self.say_batch(&batch, None);
            }
            Taken::Task(Task::Deliver(discard)) => {
                self.give_up(
                    &Finished {
                        stale: false,
                        discards: vec![*discard],
                    },
                    false,
                );
            }
            Taken::Wait(None) => self.say("nothing"),
            Taken::Wait(Some(at)) => self.say(&format!("nothing until {}", seconds(at))),
        }
    }

    /// `finish REQUEST ok | large | raise | refuse | throttle | too_large | partial SEQUENCE`; `large` is a state that ends the window.
    fn finish(&mut self, words: &[&str]) {
        let (ticket, numbers, state) = self
            .batches
            .get(words[0])
            .unwrap_or_else(|| panic!("no batch {}", words[0]))
            .clone();
        let index = words.get(2).map(|number| {
            let number = number.parse::<u64>().unwrap() * self.scale();
            numbers
                .iter()
                .position(|other| *other == number)
                .unwrap_or(numbers.len())
        });
        let large = words[1] == "large";
        let (_, outcome) = outcome(if large { "ok" } else { words[1] }, index);
        match self.finish_batch(ticket, &numbers, state, outcome, large) {
            Ok(finished) if finished.stale => self.say("stale"),
            Ok(finished) => self.give_up(&finished, false),
            Err(error) => self.say(&format!("error: {error}")),
        }
    }

    fn finish_batch(
        &mut self,
        ticket: Ticket,
        numbers: &[u64],
        state: Option<Vec<u8>>,
        outcome: Outcome,
        ends_window: bool,
    ) -> Result<Finished, UsageError> {
        let done = match outcome {
            Outcome::Success => numbers.len(),
            Outcome::Partial { index, .. } => index as usize,
            Outcome::Failure(_) | Outcome::Throttled | Outcome::TooLarge { .. } => 0,
        };
        // The function adds what it has done to the state.
        let returned = state.map(|state| {
            let mut known = in_state(&state);
            known.extend(&numbers[..done]);
            let members: Vec<_> = known
                .iter()
                .map(|number| format!("\"{number}\":1"))
                .collect();
            ReturnedState {
                state: format!("{{{}}}", members.join(",")).into_bytes(),
                ends_window,
            }
        });
        let finished = self.engine.finish(ticket, outcome, returned, self.now)?;
        if !finished.stale {
            self.truth.complete(numbers[..done].iter().copied());
        }
        self.collect_trace();
        Ok(finished)
    }

    /// A batch is what comes next in its lane, and its event has the size that it says.
    fn check_batch(&self, batch: &Batch) {
        let numbers = numbers(&batch.records());
        let records = batch.records();
        let Some(first) = records.first() else {
            assert!(batch.window().unwrap().is_final());
            return;
        };
        let lane = self.truth.lane_of(&first.key());
        let next: Vec<u64> = self.truth.incomplete(lane).take(numbers.len()).collect();
        assert_eq!(
            numbers, next,
            "a batch holds the first incomplete records of its lane"
        );
        let json = batch.json();
        // What the flags of a window need is counted at its most.
        let spare = batch.json_bytes() - json.len();
        assert!(spare == 0 || batch.window().is_some() && spare <= 2);
        assert!(
            json.len() <= self.config.mapping.payload_bytes_max as usize
                && numbers.len() <= self.config.mapping.batch_size as usize
        );
    }

    /// r1, r2, ... in the order in which request ids were first seen.
    fn request(&mut self, id: &str) -> String {
        let at = self
            .requests
            .iter()
            .position(|known| known == id)
            .unwrap_or_else(|| {
                self.requests.push(id.to_owned());
                self.requests.len() - 1
            });
        format!("r{}", at + 1)
    }

    fn lane_word(&self, lane: usize) -> String {
        if self.factor() > 1 {
            format!(" lane {lane}")
        } else {
            String::new()
        }
    }

    fn say_batch(&mut self, batch: &Batch, word: Option<&str>) {
        let engine_numbers = numbers(&batch.records());
        let shown = self.shown(&engine_numbers);
        if shown.is_empty() && !batch.is_empty() {
            return;
        }
        let request = self.request(&batch.request_id());
        self.batches.insert(
            request.clone(),
            (batch.ticket(), engine_numbers, state(batch)),
        );
        let key = batch
            .records()
            .first()
            .map_or_else(|| "a".into(), |first| first.key().into_owned());
        let mut what = list(&shown);
        if let Some(window) = batch.window() {
            let what_is_called = match (window.is_final(), window.is_terminated_early()) {
                (false, _) => what,
                (true, false) => "final".into(),
                (true, true) => "final early".into(),
            };
            let known = list(&in_state(window.state()));
            let (start, end) = (seconds(window.start_ms()), seconds(window.end_ms()));
            what = format!("{start}..{end} state={known} {what_is_called}");
        }
        if batch.attempt() > 1 {
            let _ = write!(what, " attempt {}", batch.attempt());
        }
        if let Some(word) = word {
            let _ = write!(what, " {word}");
        }
        let place = self.lane_word(self.truth.lane_of(&key));
        let time = seconds(self.now);
        let line = format!("{time}{place} {request} {what}");
        self.say(&line);
        self.seen.push(Seen { line, key, what });
    }
}

fn state(batch: &Batch) -> Option<Vec<u8>> {
    batch.window().map(|window| window.state().to_vec())
}

/// The numbers of the records that a state holds, `{"1":1,"2":1}`.
fn in_state(state: &[u8]) -> Vec<u64> {
    let text = str::from_utf8(state).unwrap();
    let numbers = text.split('"').skip(1).step_by(2);
    numbers.map(|number| number.parse().unwrap()).collect()
}
