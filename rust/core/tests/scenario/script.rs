//! The words of a scenario: records, times, parameters, and the function that a script stands for.

use std::collections::BTreeSet;

use streamcore::{MappingConfig, Outcome, Records, Response, ShardConfig, StreamClock};

use super::truth::Written;

/// `1.5` is 1,500 ms.
pub(super) fn millis(text: &str) -> i64 {
    let (seconds, rest) = text.split_once('.').unwrap_or((text, ""));
    let whole: i64 = seconds
        .parse()
        .unwrap_or_else(|_| panic!("{text:?} is no time in seconds"));
    let rest: i64 = format!("{rest:0<3}")
        .parse()
        .unwrap_or_else(|_| panic!("{text:?} is no time in seconds"));
    whole * 1_000
        + if seconds.starts_with('-') {
            -rest
        } else {
            rest
        }
}

pub(super) fn seconds(ms: i64) -> String {
    format!(
        "{}{}.{:03}",
        if ms < 0 { "-" } else { "" },
        ms.abs() / 1_000,
        ms.abs() % 1_000
    )
}

fn number(text: &str) -> u64 {
    text.parse()
        .unwrap_or_else(|_| panic!("{text:?} is no sequence number"))
}

/// `3` or `3..7`.
pub(super) fn range(text: &str) -> std::ops::RangeInclusive<u64> {
    let (first, last) = text.split_once("..").unwrap_or((text, text));
    number(first)..=number(last)
}

/// `SEQUENCE[:KEY][@ARRIVAL][/BYTES]`; a range of sequence numbers gives several records.
pub(super) fn records(words: &[&str], now: i64) -> Vec<Written> {
    let mut all = Vec::new();
    for word in words {
        let (rest, bytes) = word.split_once('/').unwrap_or((word, "1"));
        let (rest, arrival) = rest
            .split_once('@')
            .map_or((rest, now), |(rest, at)| (rest, millis(at)));
        let (numbers, key) = rest.split_once(':').unwrap_or((rest, "a"));
        let bytes = bytes
            .parse()
            .unwrap_or_else(|_| panic!("{word:?} has no number of bytes"));
        all.extend(range(numbers).map(|number| Written {
            number,
            key: key.into(),
            arrival_ms: arrival,
            bytes,
        }));
    }
    all
}

/// Records as an expectation writes them: `[1 2 3]`, long ones without a gap as `[1..100]`.
pub(super) fn list(numbers: &[u64]) -> String {
    if let [first, .., last] = numbers
        && numbers.len() > 6
        && numbers.windows(2).all(|two| two[0] + 1 == two[1])
    {
        return format!("[{first}..{last}]");
    }
    let words: Vec<_> = numbers.iter().map(u64::to_string).collect();
    format!("[{}]", words.join(" "))
}

/// Sets parameters given as `name=value`; times are in seconds, -1 is "without end".
pub(super) fn configure(config: &mut ShardConfig, words: &[&str]) {
    let limit = |text: &str| (text != "-1").then(|| millis(text));
    for word in words {
        let (name, value) = word.split_once('=').unwrap_or((word, "yes"));
        let flag = value == "yes";
        let mapping: &mut MappingConfig = &mut config.mapping;
        let whole = || {
            value
                .parse::<u32>()
                .unwrap_or_else(|_| panic!("{word:?} has no number"))
        };
        match name {
            "factor" => {
                mapping.parallelization_factor =
                    u8::try_from(whole()).expect("a factor is a small number");
            }
            "batch" => mapping.batch_size = whole(),
            "window" => mapping.batching_window_ms = millis(value),
            "tumbling" => mapping.tumbling_window_ms = millis(value),
            "grace" => config.window_grace_ms = millis(value),
            "retries" => mapping.retry_attempts_max = (value != "-1").then(whole),
            "age" => mapping.record_age_max_ms = limit(value),
            "bisect" => mapping.bisect_batch_on_function_error = flag,
            "partial" => mapping.report_batch_item_failures = flag,
            "payload" => mapping.payload_bytes_max = whole(),
            "retention" => config.retention_ms = limit(value),
            "clock" => {
                config.clock = if value == "replay" {
                    StreamClock::Replay
                } else {
                    StreamClock::Wall
                }
            }
            "sync" => config.sync_checkpoints = flag,
            _ => panic!("no parameter {name:?}"),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    /// The function raises.
    Raise,
    /// It answers, and names no record of the batch: `{"batchItemFailures":[{"itemIdentifier":""}]}` and the like.
    Refuse,
    /// It names the first bad record.
    Partial,
    /// The service does not run it.
    Throttle,
    /// The service refuses events of more bytes.
    Above(usize),
}

#[derive(Debug, Clone)]
struct Rule {
    how: How,
    bad: BTreeSet<u64>,
    /// How often it still holds.
    times: u64,
}

/// A function that answers as told: `raise 2 partial 5,7 throttle 1 times 2 above 900`. What no rule names succeeds.
#[derive(Debug, Default, Clone)]
pub(super) struct Function {
    rules: Vec<Rule>,
}

impl Function {
    pub(super) fn parse(words: &[&str]) -> Self {
        let mut rules: Vec<Rule> = Vec::new();
        for pair in words.chunks(2) {
            let [word, value] = pair else {
                panic!("{pair:?} wants a number")
            };
            let how = match *word {
                "raise" => How::Raise,
                "refuse" => How::Refuse,
                "partial" => How::Partial,
                "throttle" => How::Throttle,
                "above" => {
                    rules.push(Rule {
                        how: How::Above(value.parse().expect("above wants bytes")),
                        bad: BTreeSet::new(),
                        times: u64::MAX,
                    });
                    continue;
                }
                "times" => {
                    rules.last_mut().expect("times follows a rule").times = number(value);
                    continue;
                }
                other => panic!("a function does not {other:?}"),
            };
            rules.push(Rule {
                how,
                bad: value.split(',').flat_map(range).collect(),
                times: u64::MAX,
            });
        }
        Self { rules }
    }

    /// Its answer to an event of so many bytes with records of these numbers, in a word and as an outcome.
    pub(super) fn answer(&mut self, numbers: &[u64], bytes: usize) -> (String, Outcome) {
        let hit = |rule: &&mut Rule| {
            let hit = match rule.how {
                How::Above(limit) => bytes > limit,
                _ => numbers.iter().any(|number| rule.bad.contains(number)),
            };
            rule.times > 0 && hit
        };
        let Some(rule) = self.rules.iter_mut().find(hit) else {
            return ("ok".into(), Outcome::Success);
        };
        rule.times -= 1;
        match rule.how {
            How::Raise => outcome("raise", None),
            How::Refuse => outcome("refuse", None),
            How::Throttle => outcome("throttle", None),
            How::Above(_) => outcome("too_large", None),
            How::Partial => {
                let first = numbers.iter().position(|number| rule.bad.contains(number));
                let index = first.expect("the rule holds for the batch");
                let (word, outcome) = outcome("partial", Some(index));
                (format!("{word} {}", numbers[index]), outcome)
            }
        }
    }
}

/// `raise`, `refuse`, `throttle`, `too_large`, `ok`, or `partial` from the index on.
pub(super) fn outcome(word: &str, index: Option<usize>) -> (String, Outcome) {
    let raised = Response {
        function_error: Some("Unhandled".into()),
        ..Response::default()
    };
    let outcome = match (word, index) {
        ("ok", None) => Outcome::Success,
        ("raise", None) => Outcome::Failure(Box::new(raised)),
        ("refuse", None) => Outcome::Failure(Box::default()),
        ("throttle", None) => Outcome::Throttled,
        ("too_large", None) => Outcome::TooLarge { request_id: None },
        ("partial", Some(index)) => Outcome::Partial {
            index: u32::try_from(index).expect("a batch is small"),
            response: Box::default(),
        },
        _ => panic!("no outcome {word:?}"),
    };
    (word.into(), outcome)
}

/// The sequence numbers of records.
pub(super) fn numbers(records: &Records) -> Vec<u64> {
    let records = records.iter();
    records.map(|record| number(record.sequence())).collect()
}
