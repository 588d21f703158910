//! The commands of the tables. One shard stands in the middle; time begins at 0 and passes only where a command says so.
//!
//! | command | meaning |
//! |---|---|
//! | `new batch_size=4 retries=1 bisect` | a shard; see [`configure`] for the settings; windows and ages are in seconds; `budget=3000` limits the engine |
//! | `function bad=2,5 answer=raise` | how batches with bad records are answered: `raise`, `fail` (an answer that means failure), `partial`, `partial_first` (names the first record), `throttle` |
//! | `script raise throttle ok partial=2` | the answers of the next invocations, whatever they hold |
//! | `offer 1 2b 3@-70 4*5000` | a page of records: number, key letter (`a`), arrival in seconds from now, bytes of payload |
//! | `fetch 1 2` | the same, after `wants` |
//! | `run`, `run until=12.5`, `run times` | take, invoke, deliver and let time pass until nothing is left to do |
//! | `take`, `finish b1 raise`, `confirm d1` | the same by hand |
//! | `hold`, `deliver` | discards stay on their way; now they arrive |
//! | `wait 2.5` | time passes |
//! | `wants`, `lanes`, `stats`, `checkpoint` | what the shard says |
//! | `save`, `restart pf=2` | the checkpoint is stored; the shard begins anew from the stored one, with other settings |
//! | `pause`, `resume`, `drain`, `close`, `update pf=3`, `remove`, `starve` | the life cycle |

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fmt::Write;

use streamcore::{
    BUDGET_BYTES, Batch, Checkpoint, CheckpointKey, Confirmation, Discard, Engine, LaneState,
    MappingConfig, MappingIdentity, Outcome, Page, PageBuilder, Response, ShardConfig, StreamClock,
    Taken, Task, lane,
};

const BEGIN_MS: i64 = 1_700_000_000_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Twist {
    None,
    Split,
    Crowd,
    Lanes,
    Restart,
}

impl Twist {
    pub(crate) fn named(name: &str) -> Self {
        match name {
            "split" => Self::Split,
            "crowd" => Self::Crowd,
            "lanes" => Self::Lanes,
            "restart" => Self::Restart,
            other => panic!("unknown twist {other:?}"),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Script {
    twist: Twist,
    engine: Engine,
    shard: u32,
    other: u32,
    config: ShardConfig,
    budget_bytes: usize,
    now: i64,
    bad: HashSet<u64>,
    answer: String,
    answers: VecDeque<String>,
    /// Request ids, tickets and discards by their names in the table.
    requests: HashMap<String, usize>,
    batches: BTreeMap<String, Batch>,
    discards: BTreeMap<String, Discard>,
    hold: bool,
    stored: Option<Vec<u8>>,
    other_sequence: u64,
}

fn key_of(shard_id: &str) -> CheckpointKey {
    CheckpointKey {
        mapping_uuid: format!("mapping of {shard_id}"),
        stream_identity: "stream".into(),
        shard_id: shard_id.into(),
    }
}

/// Sets `name` or `name=value` in a configuration.
fn configure(config: &mut ShardConfig, word: &str) {
    let (name, value) = word.split_once('=').unwrap_or((word, "1"));
    let number: i64 = value
        .parse()
        .unwrap_or_else(|_| panic!("{word:?}: the value must be a whole number"));
    let mapping = &mut config.mapping;
    match name {
        "batch_size" => mapping.batch_size = u32::try_from(number).unwrap(),
        "window" => mapping.batching_window_ms = number * 1_000,
        "pf" => mapping.parallelization_factor = u8::try_from(number).unwrap(),
        "retries" => mapping.retry_attempts_max = u32::try_from(number).ok(),
        "age" => mapping.record_age_max_ms = Some(number * 1_000),
        "retention" => config.retention_ms = Some(number * 1_000),
        "bisect" => mapping.bisect_batch_on_function_error = number == 1,
        "report" => mapping.report_batch_item_failures = number == 1,
        "payload" => mapping.payload_bytes_max = u32::try_from(number).unwrap(),
        "sync" => config.sync_checkpoints = number == 1,
        "replay" => config.clock = StreamClock::Replay,
        other => panic!("unknown setting {other:?}"),
    }
}

fn milliseconds(seconds: &str) -> i64 {
    let (whole, fraction) = seconds.split_once('.').unwrap_or((seconds, ""));
    let sign = if whole.starts_with('-') { -1 } else { 1 };
    let fraction: i64 = format!("{fraction:0<3}").parse().unwrap();
    whole.parse::<i64>().unwrap() * 1_000 + sign * fraction
}

fn seconds(ms: i64) -> String {
    format!("{}.{:03}", ms / 1_000, ms % 1_000)
}

struct Spec {
    number: u64,
    key: String,
    arrival: i64,
    payload: usize,
}

fn spec(word: &str, now: i64) -> Spec {
    let (rest, payload) = word.split_once('*').unwrap_or((word, "1"));
    let (rest, arrival) = rest.split_once('@').unwrap_or((rest, "0"));
    let key = rest.trim_start_matches(|c: char| c.is_ascii_digit());
    Spec {
        number: rest[..rest.len() - key.len()]
            .parse()
            .unwrap_or_else(|_| panic!("{word:?} is not a record")),
        key: if key.is_empty() { "a" } else { key }.to_owned(),
        arrival: now + milliseconds(arrival),
        payload: payload.parse().unwrap(),
    }
}

/// The number of a record in the table. Those of unrelated lanes lie between and have none.
fn number(sequence: &str) -> u64 {
    let number: u64 = sequence.parse().unwrap();
    assert!(number.is_multiple_of(10));
    number / 10
}

fn numbers<'a>(records: impl Iterator<Item = streamcore::Record<'a>>) -> String {
    let numbers: Vec<String> = records
        .map(|record| number(record.sequence()).to_string())
        .collect();
    format!("[{}]", numbers.join(" "))
}

impl Script {
    pub(crate) fn new(twist: Twist) -> Self {
        let config = ShardConfig::new(
            key_of("shard"),
            MappingIdentity::default(),
            MappingConfig::default(),
        );
        let mut own = Self {
            twist,
            engine: Engine::default(),
            shard: 0,
            other: 0,
            config,
            budget_bytes: BUDGET_BYTES,
            now: BEGIN_MS,
            bad: HashSet::new(),
            answer: "raise".into(),
            answers: VecDeque::new(),
            requests: HashMap::new(),
            batches: BTreeMap::new(),
            discards: BTreeMap::new(),
            hold: false,
            stored: None,
            other_sequence: 0,
        };
        own.begin(None);
        own
    }

    fn begin(&mut self, checkpoint: Option<Checkpoint>) {
        self.engine = Engine::new(self.budget_bytes);
        self.config.seed += 1;
        let mut config = self.config.clone();
        if self.twist == Twist::Lanes {
            assert_eq!(
                config.mapping.parallelization_factor, 1,
                "a table for the twist lanes has one lane"
            );
            config.mapping.parallelization_factor = 10;
        }
        self.shard = self.engine.add_shard(config.clone(), checkpoint).unwrap();
        config.key = key_of("other");
        self.other = self.engine.add_shard(config, None).unwrap();
        assert!(
            !self.config.sync_checkpoints || self.twist != Twist::Crowd,
            "the other shard is never saved"
        );
        self.batches.clear();
        self.discards.clear();
    }

    pub(crate) fn command(&mut self, line: &str, out: &mut String) {
        let mut words = line.split_whitespace();
        let Some(command) = words.next().filter(|word| !word.starts_with('#')) else {
            return;
        };
        let words: Vec<&str> = words.collect();
        match command {
            "new" => {
                let mut next = Self::new(Twist::None);
                for word in words {
                    match word.strip_prefix("budget=") {
                        Some(bytes) => next.budget_bytes = bytes.parse().unwrap(),
                        None => configure(&mut next.config, word),
                    }
                }
                next.twist = self.twist;
                next.begin(None);
                *self = next;
            }
            "function" => self.function(&words),
            "script" => self.answers.extend(words.into_iter().map(str::to_owned)),
            "offer" | "fetch" => self.offer(&words, command == "fetch", out),
            "run" => self.run(&words, out),
            "take" => self.take_by_hand(out),
            "finish" => self.finish_by_hand(words[0], words[1], out),
            "confirm" => {
                let id = self.discards[words[0]].id();
                let known = self.engine.confirm(id, Confirmation::Delivered);
                writeln!(
                    out,
                    "{}",
                    if known { "confirmed" } else { "not waited for" }
                )
                .unwrap();
            }
            "hold" => self.hold = true,
            "deliver" => {
                self.hold = false;
                for discard in std::mem::take(&mut self.discards).into_values() {
                    self.engine.confirm(discard.id(), Confirmation::Delivered);
                }
            }
            "wait" => self.now += milliseconds(words[0]),
            "wants" => self.wants(out),
            "lanes" => self.lanes(out),
            "stats" => self.stats(out),
            "checkpoint" => self.checkpoint(out),
            "save" => self.save(out),
            "restart" => {
                for word in words {
                    configure(&mut self.config, word);
                }
                let stored = self
                    .stored
                    .as_ref()
                    .map(|blob| Checkpoint::decode(blob).unwrap());
                self.begin(stored);
            }
            "pause" => self.engine.pause(self.shard).unwrap(),
            "resume" => self.engine.resume(self.shard, self.now).unwrap(),
            "drain" => self.engine.drain(self.shard, self.now).unwrap(),
            "close" => self.engine.close(self.shard, self.now).unwrap(),
            "remove" => self.engine.remove(self.shard).unwrap(),
            "update" => {
                let mut config = self.config.clone();
                for word in words {
                    configure(&mut config, word);
                }
                match self
                    .engine
                    .update(self.shard, config.mapping.clone(), self.now)
                {
                    Ok(()) => self.config = config,
                    Err(error) => writeln!(out, "error: {error}").unwrap(),
                }
            }
            other => panic!("unknown command {other:?}"),
        }
        if self.config.mapping.parallelization_factor > 0 {
            self.engine.check_invariants();
        }
    }

    fn function(&mut self, words: &[&str]) {
        for word in words {
            match word.split_once('=').unwrap() {
                ("bad", list) => {
                    self.bad = list
                        .split(',')
                        .filter_map(|number| number.parse().ok())
                        .collect();
                }
                ("answer", answer) => answer.clone_into(&mut self.answer),
                other => panic!("{other:?}"),
            }
        }
    }

    // ---- intake ----

    fn page(&self, specs: &[Spec]) -> (Page, u32) {
        let mut builder = PageBuilder::new();
        let mut unrelated = 0;
        for spec in specs {
            let sequence = (spec.number * 10).to_string();
            builder
                .push(
                    &spec.key,
                    &vec![7; spec.payload],
                    spec.arrival,
                    Some(&sequence),
                )
                .unwrap();
            if self.twist == Twist::Lanes {
                let own = lane(streamcore::key_hash(spec.key.as_bytes()), 10);
                let keys = (0..100).map(|n| format!("unrelated-{n}"));
                let foreign = |key: &String| lane(streamcore::key_hash(key.as_bytes()), 10) != own;
                for (nth, key) in keys.filter(foreign).take(5).enumerate() {
                    let sequence = (spec.number * 10 + 1 + u64::try_from(nth).unwrap()).to_string();
                    builder.push(&key, b"x", self.now, Some(&sequence)).unwrap();
                    unrelated += 1;
                }
            }
        }
        (builder.finish(), unrelated)
    }

    fn offer(&mut self, words: &[&str], fetch: bool, out: &mut String) {
        let specs: Vec<Spec> = words.iter().map(|word| spec(word, self.now)).collect();
        let middle = if self.twist == Twist::Split && specs.len() > 1 {
            specs.len() / 2
        } else {
            specs.len()
        };
        let (mut records, mut duplicates, mut complete) = (0, 0, 0);
        for half in [&specs[..middle], &specs[middle..]] {
            if half.is_empty() && !specs.is_empty() {
                continue;
            }
            if fetch {
                let want = self.engine.wants(self.shard, self.now).unwrap();
                assert!(want.is_some(), "the shard wants no page");
            }
            let (page, unrelated) = self.page(half);
            match self.engine.offer(self.shard, page, Some(0), self.now) {
                Ok(offered) => {
                    let all_new = offered.duplicates == 0;
                    assert!(
                        all_new || unrelated == 0 || offered.records == 0,
                        "a page is new or not"
                    );
                    records += offered.records - if all_new { unrelated } else { 0 };
                    duplicates += offered.duplicates - if all_new { 0 } else { unrelated };
                    complete += offered.complete;
                    if !offered.accepted {
                        writeln!(out, "refused").unwrap();
                    }
                }
                Err(error) => {
                    writeln!(out, "error: {error}").unwrap();
                    return;
                }
            }
        }
        if self.twist == Twist::Crowd {
            let mut builder = PageBuilder::new();
            for nth in 0..2 * specs.len() {
                self.other_sequence += 1;
                let sequence = self.other_sequence.to_string();
                builder
                    .push(
                        &format!("other-{}", nth % 5),
                        b"x",
                        self.now,
                        Some(&sequence),
                    )
                    .unwrap();
            }
            self.engine
                .offer(self.other, builder.finish(), None, self.now)
                .unwrap();
        }
        let mut text = format!("{records} records");
        if duplicates > 0 {
            write!(text, ", {duplicates} duplicates").unwrap();
        }
        if complete > 0 {
            write!(text, ", {complete} of them complete").unwrap();
        }
        writeln!(out, "{text}").unwrap();
    }

    // ---- running ----

    fn request(&mut self, request_id: &str) -> String {
        let next = self.requests.len() + 1;
        format!(
            "r{}",
            self.requests.entry(request_id.to_owned()).or_insert(next)
        )
    }

    fn is_foreign(batch: &Batch) -> bool {
        batch.config().key.shard_id != "shard" || batch.first().key().starts_with("unrelated")
    }

    fn outcome(&mut self, batch: &Batch) -> (String, Outcome) {
        let bad = batch
            .records()
            .position(|record| self.bad.contains(&number(record.sequence())));
        let answer = match (self.answers.pop_front(), bad) {
            (Some(answer), _) => answer,
            (None, None) => "ok".to_owned(),
            (None, Some(_)) => self.answer.clone(),
        };
        let response = |function_error: Option<&str>| Response {
            function_error: function_error.map(str::to_owned),
            ..Response::default()
        };
        let partial = |index: usize| Outcome::Partial {
            index: u32::try_from(index).unwrap(),
            response: response(None),
        };
        let outcome = match answer.split_once('=').unwrap_or((&answer, "")) {
            ("ok", _) => Outcome::Success,
            ("raise", _) => Outcome::Failure(response(Some("Unhandled"))),
            ("fail", _) => Outcome::Failure(response(None)),
            ("throttle", _) => Outcome::Throttled,
            ("partial_first", _) => partial(0),
            ("partial", "") => partial(bad.unwrap()),
            ("partial", from) => {
                let wanted: u64 = from.parse().unwrap();
                let from = batch
                    .records()
                    .position(|record| number(record.sequence()) == wanted);
                partial(from.unwrap_or(usize::MAX >> 33))
            }
            other => panic!("unknown answer {other:?}"),
        };
        (answer, outcome)
    }

    fn batch_line(&mut self, batch: &Batch) -> String {
        let request = self.request(batch.request_id());
        let mut line = format!("{request} try {}", batch.attempt());
        let factor = self.config.mapping.parallelization_factor;
        if factor > 1 {
            write!(line, " lane {}", lane(batch.first().key_hash(), factor)).unwrap();
        }
        write!(line, " {}", numbers(batch.records())).unwrap();
        line
    }

    fn discard_line(&mut self, discard: &Discard) -> String {
        let request =
            if discard.response().is_some() || self.requests.contains_key(discard.request_id()) {
                self.request(discard.request_id())
            } else {
                "never invoked".to_owned()
            };
        let response = match discard.response() {
            None => "no response".to_owned(),
            Some(response) => format!(
                "functionError {}",
                response.function_error.as_deref().unwrap_or("null")
            ),
        };
        format!(
            "discard {} {}: count {}, batchSize {}, {response}, {request}",
            numbers(discard.records()),
            discard.condition().as_str(),
            discard.approximate_invoke_count(),
            discard.len(),
        )
    }

    fn discarded(&mut self, discard: Discard, prefix: &str, out: &mut String) {
        if discard.config().key.shard_id != "shard"
            || discard.first().key().starts_with("unrelated")
        {
            self.engine.confirm(discard.id(), Confirmation::Delivered);
            return;
        }
        let line = self.discard_line(&discard);
        writeln!(out, "{prefix}{line}").unwrap();
        if !self.hold {
            self.engine.confirm(discard.id(), Confirmation::Delivered);
        }
        let name = format!("d{}", self.discards.len() + 1);
        self.discards.insert(name, discard);
    }

    fn run(&mut self, words: &[&str], out: &mut String) {
        let times = words.contains(&"times");
        let until = words.iter().find_map(|word| word.strip_prefix("until="));
        let until = until.map(|until| BEGIN_MS + milliseconds(until));
        loop {
            let prefix = if times {
                format!("{:>8} ", seconds(self.now - BEGIN_MS))
            } else {
                String::new()
            };
            match self.engine.take(self.now) {
                Taken::Task(Task::Run(batch)) if Self::is_foreign(&batch) => {
                    self.engine
                        .finish(batch.ticket(), Outcome::Success, None, self.now)
                        .unwrap();
                }
                Taken::Task(Task::Run(batch)) => {
                    let line = self.batch_line(&batch);
                    let (answer, outcome) = self.outcome(&batch);
                    write!(out, "{prefix}{line} {answer}").unwrap();
                    match self.engine.finish(batch.ticket(), outcome, None, self.now) {
                        Ok(finished) => {
                            writeln!(out).unwrap();
                            for discard in finished.discards {
                                self.discarded(discard, &prefix, out);
                            }
                        }
                        Err(error) => {
                            writeln!(out, ": {error}").unwrap();
                            self.engine
                                .finish(batch.ticket(), Outcome::Throttled, None, self.now)
                                .unwrap();
                        }
                    }
                }
                Taken::Task(Task::Deliver(discard)) => self.discarded(discard, &prefix, out),
                Taken::Wait(next) => {
                    let next = next.filter(|next| until.is_none_or(|until| *next <= until));
                    let Some(next) = next else { break };
                    self.now = next.max(self.now);
                }
            }
        }
        self.now = until.unwrap_or(self.now);
        let idle = self
            .engine
            .stats(self.shard)
            .is_ok_and(|stats| stats.held_records == 0);
        if self.twist == Twist::Restart && idle && !self.hold {
            let snapshot = self
                .engine
                .checkpoint(self.shard)
                .unwrap()
                .expect("something has changed");
            self.begin(Some(
                Checkpoint::decode(&snapshot.checkpoint.encode()).unwrap(),
            ));
        }
    }

    fn take_by_hand(&mut self, out: &mut String) {
        match self.engine.take(self.now) {
            Taken::Task(Task::Run(batch)) => {
                let name = format!("b{}", self.batches.len() + 1);
                let line = self.batch_line(&batch);
                writeln!(out, "{name}: {line}").unwrap();
                self.batches.insert(name, batch);
            }
            Taken::Task(Task::Deliver(discard)) => self.discarded(discard, "", out),
            Taken::Wait(None) => writeln!(out, "nothing").unwrap(),
            Taken::Wait(Some(at)) => {
                writeln!(out, "nothing until {}", seconds(at - BEGIN_MS)).unwrap();
            }
        }
    }

    fn finish_by_hand(&mut self, name: &str, answer: &str, out: &mut String) {
        let batch = self
            .batches
            .get(name)
            .unwrap_or_else(|| panic!("no batch {name}; so far: {out}"))
            .clone();
        self.answers.push_front(answer.to_owned());
        let (_, outcome) = self.outcome(&batch);
        match self.engine.finish(batch.ticket(), outcome, None, self.now) {
            Err(error) => writeln!(out, "error: {error}").unwrap(),
            Ok(finished) if finished.stale => writeln!(out, "stale").unwrap(),
            Ok(finished) => {
                for discard in finished.discards {
                    self.discarded(discard, "", out);
                }
            }
        }
    }

    // ---- looking ----

    fn wants(&mut self, out: &mut String) {
        let Some(want) = self.engine.wants(self.shard, self.now).unwrap() else {
            writeln!(out, "nothing").unwrap();
            return;
        };
        self.engine.fetch_failed(self.shard).unwrap();
        let from = want.after.map_or("from the start".to_owned(), |after| {
            format!("after {}", number(after.sequence.as_str()))
        });
        writeln!(out, "up to {} records {from}", want.limit).unwrap();
    }

    fn stats(&mut self, out: &mut String) {
        let stats = self.engine.stats(self.shard).unwrap();
        let counters = stats.counters;
        writeln!(
                    out,
                    "{:?}: held={} in_flight={} unconfirmed={} records={} succeeded={} discarded={} expired={} invocations={} failed={} retries={} throttles={}",
                    stats.state,
                    stats.held_records,
                    stats.in_flight,
                    stats.unconfirmed_discards,
                    counters.records,
                    counters.succeeded,
                    counters.discarded,
                    counters.expired,
                    counters.invocations,
                    counters.failed_invocations,
                    counters.retries,
                    counters.throttles,
                )
                .unwrap();
    }

    fn lanes(&mut self, out: &mut String) {
        let stats = self.engine.stats(self.shard).unwrap();
        for (index, lane) in stats.lanes.iter().enumerate() {
            let until = |at: i64| seconds(at - BEGIN_MS);
            let doing = match lane.state {
                LaneState::Empty => "empty".to_owned(),
                LaneState::Waiting(at) => format!("waits until {}", until(at)),
                LaneState::Ready => "ready".to_owned(),
                LaneState::InFlight(_) => "in flight".to_owned(),
                LaneState::Parked(at) => format!("parked until {}", until(at)),
            };
            let first = lane
                .first_sequence_number
                .as_deref()
                .map_or(String::new(), |first| {
                    format!(
                        ", {} records from {}, {} attempts",
                        lane.records,
                        number(first),
                        lane.attempts
                    )
                });
            writeln!(out, "lane {index} {doing}{first}").unwrap();
        }
    }

    fn checkpoint(&mut self, out: &mut String) {
        let Some(snapshot) = self.engine.checkpoint(self.shard).unwrap() else {
            writeln!(out, "nothing has changed").unwrap();
            return;
        };
        let position = |position: Option<&streamcore::Position>| {
            position.map_or("-".to_owned(), |position| {
                number(position.sequence.as_str()).to_string()
            })
        };
        let checkpoint = snapshot.checkpoint;
        writeln!(out, "watermark {}", position(checkpoint.watermark.as_ref())).unwrap();
        for tag in &checkpoint.lanes {
            let marks: Vec<String> = tag
                .marks
                .iter()
                .map(|mark| position(mark.as_ref()))
                .collect();
            writeln!(out, "marks of {} lanes: {}", marks.len(), marks.join(" ")).unwrap();
        }
        if checkpoint.ended {
            writeln!(out, "ended").unwrap();
        }
    }

    fn save(&mut self, out: &mut String) {
        match self.engine.checkpoint(self.shard).unwrap() {
            None => writeln!(out, "nothing has changed").unwrap(),
            Some(snapshot) => {
                self.stored = Some(snapshot.checkpoint.encode());
                self.engine.saved(self.shard, snapshot.version).unwrap();
            }
        }
    }
}
