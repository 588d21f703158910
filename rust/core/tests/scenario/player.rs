//! Plays a scenario: one command after the other against an engine, and against sets that know what must be complete.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use streamcore::{
    Batch, Checkpoint, CheckpointKey, Confirmation, Discard, DiscardId, Engine, Event, Finished,
    LaneState, MappingConfig, MappingIdentity, Offered, Outcome, Page, PageBuilder, Position,
    ShardConfig, Snapshot, Start, Taken, Task, Ticket, UsageError,
};

use super::script::{Function, configure, list, millis, numbers, outcome, range, records, seconds};
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
    /// Batches handed out to `take` or `run`, by request name: their last ticket and numbers.
    batches: BTreeMap<String, (Ticket, Vec<u64>)>,
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
            Ok(()) => {
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
                    let engine_numbers = numbers(batch.records());
                    let shown = self.shown(&engine_numbers);
                    let (word, outcome) = self.function.answer(&shown);
                    self.say_batch(&batch, Some(&word));
                    let finished = self
                        .finish_batch(batch.ticket(), &engine_numbers, outcome)
                        .unwrap();
                    self.give_up(&finished, confirm);
                    invocations += usize::from(!shown.is_empty());
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
                        discards: vec![discard],
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
                        discards: vec![discard],
                    },
                    false,
                );
            }
            Taken::Wait(None) => self.say("nothing"),
            Taken::Wait(Some(at)) => self.say(&format!("nothing until {}", seconds(at))),
        }
    }

    /// `finish REQUEST ok | raise | refuse | throttle | partial SEQUENCE`
    fn finish(&mut self, words: &[&str]) {
        let (ticket, numbers) = self
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
        let (_, outcome) = outcome(words[1], index);
        match self.finish_batch(ticket, &numbers, outcome) {
            Ok(finished) if finished.stale => self.say("stale"),
            Ok(finished) => self.give_up(&finished, false),
            Err(error) => self.say(&format!("error: {error}")),
        }
    }

    fn finish_batch(
        &mut self,
        ticket: Ticket,
        numbers: &[u64],
        outcome: Outcome,
    ) -> Result<Finished, UsageError> {
        let done = match outcome {
            Outcome::Success => numbers.len(),
            Outcome::Partial { index, .. } => index as usize,
            Outcome::Failure(_) | Outcome::Throttled => 0,
        };
        let finished = self.engine.finish(ticket, outcome, None, self.now)?;
        if !finished.stale {
            self.truth.complete(numbers[..done].iter().copied());
        }
        self.collect_trace();
        Ok(finished)
    }

    /// A batch is what comes next in its lane, and its event has the size that it says.
    fn check_batch(&self, batch: &Batch) {
        let numbers = numbers(batch.records());
        let lane = self.truth.lane_of(&batch.first().key());
        let next: Vec<u64> = self.truth.incomplete(lane).take(numbers.len()).collect();
        assert_eq!(
            numbers, next,
            "a batch holds the first incomplete records of its lane"
        );
        let json = batch.json();
        assert_eq!(json.len(), batch.json_bytes());
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
        let engine_numbers = numbers(batch.records());
        let shown = self.shown(&engine_numbers);
        if shown.is_empty() {
            return;
        }
        let request = self.request(batch.request_id());
        self.batches
            .insert(request.clone(), (batch.ticket(), engine_numbers));
        let key = batch.first().key().into_owned();
        let mut what = list(&shown);
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

    // ---- discards ----

    fn give_up(&mut self, finished: &Finished, confirm: bool) {
        for discard in &finished.discards {
            let numbers = numbers(discard.records());
            self.truth.discard(&numbers);
            self.discards.push((discard.id(), numbers));
            let nth = self.discards.len();
            self.unconfirmed.insert(nth);
            self.say_discard(discard, nth);
            if confirm {
                self.confirm_one(nth, Confirmation::Delivered);
            }
        }
    }

    fn say_discard(&mut self, discard: &Discard, nth: usize) {
        let shown = self.shown(&self.discards[nth - 1].1);
        let request = self.request(discard.request_id());
        let answer = discard.response().map_or_else(
            || "no response".into(),
            |response| {
                format!(
                    "functionError={}",
                    response.function_error.as_deref().unwrap_or("null")
                )
            },
        );
        let what = format!(
            "discard {} {} count={} batchSize={} {answer}",
            list(&shown),
            discard.condition().as_str(),
            discard.approximate_invoke_count(),
            discard.len(),
        );
        let line = format!("{} d{nth} {request} {what}", seconds(self.now));
        if shown.is_empty() {
            return;
        }
        self.say(&line);
        let key = discard.first().key().into_owned();
        self.seen.push(Seen { line, key, what });
    }

    /// `confirm d1..d3 [given-up]`, or `confirm all`
    fn confirm(&mut self, words: &[&str]) {
        let how = if words.contains(&"given-up") {
            Confirmation::GivenUp
        } else {
            Confirmation::Delivered
        };
        let wanted: Vec<usize> = if words[0] == "all" {
            self.unconfirmed.iter().copied().collect()
        } else {
            range(&words[0].replace('d', ""))
                .map(|nth| usize::try_from(nth).unwrap())
                .collect()
        };
        for nth in wanted {
            self.confirm_one(nth, how);
        }
    }

    fn confirm_one(&mut self, nth: usize, how: Confirmation) {
        let (id, numbers) = self.discards[nth - 1].clone();
        if self.engine.confirm(id, how) {
            assert!(self.unconfirmed.remove(&nth), "a discard is confirmed once");
            self.truth.confirm(&numbers);
        } else {
            assert!(
                !self.unconfirmed.contains(&nth),
                "d{nth} waits for its confirmation"
            );
            self.say("not waited for");
        }
    }

    // ---- checkpoints ----

    fn checkpoint(&mut self) {
        let Some(snapshot) = self.engine.checkpoint(self.shard).unwrap() else {
            return self.say("nothing has changed");
        };
        let checkpoint = &snapshot.checkpoint;
        let mut line = format!("watermark {}", position(checkpoint.watermark.as_ref()));
        for tag in &checkpoint.lanes {
            let marks: Vec<_> = tag
                .marks
                .iter()
                .map(|mark| position(mark.as_ref()))
                .collect();
            let _ = write!(line, ", marks [{}]", marks.join(" "));
        }
        line.push_str(if checkpoint.ended { ", ended" } else { "" });
        self.say(&line);
        self.snapshot = Some((snapshot, self.truth.known.clone()));
    }

    /// The last snapshot reaches the store.
    fn save(&mut self) {
        let (snapshot, known) = self.snapshot.clone().expect("checkpoint comes before save");
        self.saved = Some((snapshot.checkpoint.encode(), known));
        self.engine.saved(self.shard, snapshot.version).unwrap();
    }

    /// Restarted at this moment, under any factor, the engine hands out exactly what is not complete.
    fn check_restarts(&mut self) {
        let current = self.engine.checkpoint(self.shard).ok().flatten();
        let checkpoint = match current {
            Some(snapshot) => snapshot.checkpoint,
            None => self
                .restored()
                .unwrap_or_else(|| Checkpoint::fresh(key(), Start::TrimHorizon)),
        };
        let known = if self.engine.stats(self.shard).is_ok() {
            self.truth.known.clone()
        } else {
            self.saved
                .as_ref()
                .map(|saved| saved.1.clone())
                .unwrap_or_default()
        };
        let rest = self.truth.rest(&known);
        let blob = checkpoint.encode();
        for factor in [self.factor(), 1, 3, 10] {
            let restored = Checkpoint::decode(&blob).unwrap();
            if restored.ended {
                assert!(rest.is_empty(), "an ended shard has no incomplete record");
                continue;
            }
            let mapping = MappingConfig {
                parallelization_factor: factor,
                batch_size: 10_000,
                ..MappingConfig::default()
            };
            let mut engine = Engine::default();
            let shard = engine
                .add_shard(
                    ShardConfig::new(key(), MappingIdentity::default(), mapping),
                    Some(restored),
                )
                .unwrap();
            engine.offer(shard, page(&self.truth.log), None, 0).unwrap();
            let mut again = BTreeSet::new();
            while let Taken::Task(Task::Run(batch)) = engine.take(0) {
                again.extend(numbers(batch.records()));
                engine
                    .finish(batch.ticket(), Outcome::Success, None, 0)
                    .unwrap();
            }
            assert_eq!(
                again, rest,
                "a restart with factor {factor} hands out what is not complete"
            );
        }
    }

    // ---- accounts ----

    /// Takes the engine's trace; what passes without the function is told.
    fn collect_trace(&mut self) {
        for (_, event) in self.engine.drain_trace() {
            match &event {
                Event::Expired { lane, records } => {
                    let numbers: Vec<u64> = self
                        .truth
                        .incomplete((*lane).into())
                        .take(*records as usize)
                        .collect();
                    let shown = self.shown(&numbers);
                    self.truth.complete(numbers);
                    self.say(&format!("{} expired {}", seconds(self.now), list(&shown)));
                }
                Event::Oversized {
                    sequence, attempts, ..
                } => {
                    self.say(&format!(
                        "{} oversized [{sequence}] attempt {attempts}",
                        seconds(self.now)
                    ));
                }
                Event::Ended => self.say(&format!("{} ended", seconds(self.now))),
                _ => {}
            }
            self.trace.push(event);
        }
    }

    fn print_trace(&mut self) {
        self.collect_trace();
        for event in std::mem::take(&mut self.trace) {
            let mut line = event.to_string();
            if let Event::HandedOut { request_id, .. } = &event {
                line = line.replace(request_id, &self.request(request_id));
            }
            self.say(&line);
        }
    }

    fn stats(&mut self) {
        let stats = match self.engine.stats(self.shard) {
            Ok(stats) => stats,
            Err(error) => return self.say(&format!("error: {error}")),
        };
        let lanes: Vec<_> = stats
            .lanes
            .iter()
            .map(|lane| {
                let first = lane
                    .first_sequence_number
                    .as_deref()
                    .map_or_else(String::new, |first| format!(" at {first}"));
                let doing = match lane.state {
                    LaneState::Empty => "empty".into(),
                    LaneState::Ready => "ready".into(),
                    LaneState::InFlight(_) => "in flight".into(),
                    LaneState::Waiting(until) => format!("waiting until {}", seconds(until)),
                    LaneState::Parked(until) => format!("parked until {}", seconds(until)),
                };
                format!("{doing}{first}")
            })
            .collect();
        let life = format!("{:?}", stats.state).to_lowercase();
        self.say(&format!(
            "{life}, {} held, {} in flight, {} unconfirmed, watermark {}, lanes: {}",
            stats.held_records,
            stats.in_flight,
            stats.unconfirmed_discards,
            position(stats.watermark.as_ref()),
            lanes.join("; ")
        ));
    }
}
