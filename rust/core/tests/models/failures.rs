//! A failing batch against a recursive function that says what a failing batch is (I5, I6).

use std::collections::BTreeMap;

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use streamcore::{
    Condition, Distribution, Finished, MappingConfig, Outcome, ShardStats, Taken, Task,
};

use super::{batch_numbers, confirm_all, engine_with, numbers, page, written};

/// How the function answers a batch with a bad record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    Raise,
    Partial,
    Throttle,
    /// The service refuses the event.
    TooLarge,
}

/// A record is bad for so many invocations that meet it.
type Bad = BTreeMap<u64, (How, u32)>;

/// The answer to these records: the first bad one decides.
fn answer(bad: &mut Bad, records: &[u64]) -> Option<(How, usize)> {
    let (at, number) = records
        .iter()
        .enumerate()
        .find(|(_, number)| bad.get(number).is_some_and(|(_, left)| *left > 0))?;
    let (how, left) = bad.get_mut(number)?;
    *left -= 1;
    Some((*how, at))
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    /// Records, the attempt, and the name of the batch identity: kept for a retry, new for a half or a suffix.
    Invoked(Vec<u64>, u32, usize),
    Discarded(Vec<u64>, u32, usize),
}

struct Reference<'a> {
    mapping: &'a MappingConfig,
    bad: Bad,
    identities: usize,
    steps: Vec<Step>,
    /// What a record adds to an event beside its sequence number, which stands there twice.
    record_bytes: usize,
}

impl Reference<'_> {
    fn event_bytes(&self, records: &[u64]) -> usize {
        let written = records
            .iter()
            .map(|number| self.record_bytes + 2 * number.to_string().len());
        r#"{"Records":[]}"#.len() + written.sum::<usize>() + records.len() - 1
    }

    /// Carries a batch to its end.
    fn run(&mut self, records: &[u64]) {
        let identity = self.identities;
        self.identities += 1;
        let mut attempts = 0;
        loop {
            self.steps
                .push(Step::Invoked(records.to_vec(), attempts + 1, identity));
            match answer(&mut self.bad, records) {
                None => return,
                Some((How::Throttle, _)) => continue,
                Some((How::TooLarge, _)) if records.len() > 1 => {
                    let larger = |front: &usize| {
                        let (left, right) = records.split_at(*front);
                        self.event_bytes(left).max(self.event_bytes(right))
                    };
                    let front = (1..records.len()).min_by_key(larger).unwrap();
                    let (left, right) = records.split_at(front);
                    self.run(left);
                    return self.run(right);
                }
                // The attempts that are left are spent without the function.
                Some((How::TooLarge, _)) => {
                    let spent = self.mapping.retry_attempts_max.unwrap() + 1;
                    self.steps
                        .push(Step::Discarded(records.to_vec(), spent, identity));
                    return;
                }
                Some((How::Partial, done)) if done > 0 => return self.run(&records[done..]),
                Some(_) => attempts += 1,
            }
            if self.mapping.bisect_batch_on_function_error && records.len() > 1 {
                let (left, right) = records.split_at(records.len() / 2);
                self.run(left);
                return self.run(right);
            }
            if self
                .mapping
                .retry_attempts_max
                .is_some_and(|max| attempts > max)
            {
                self.steps
                    .push(Step::Discarded(records.to_vec(), attempts, identity));
                return;
            }
        }
    }
}

fn tell(finished: &Finished, ids: &[String], steps: &mut Vec<Step>) {
    for discard in &finished.discards {
        assert_eq!(discard.condition(), Condition::RetryAttemptsExhausted);
        let identity = ids
            .iter()
            .position(|id| id == discard.request_id())
            .unwrap();
        steps.push(Step::Discarded(
            numbers(discard.records()),
            discard.approximate_invoke_count(),
            identity,
        ));
    }
}

/// The bytes that a record adds to an event beside its sequence number.
fn record_bytes(mapping: &MappingConfig) -> usize {
    let (mut engine, shard) = engine_with(mapping.clone());
    engine.offer(shard, page(&written(&[0])), None, 0).unwrap();
    let Taken::Task(Task::Run(batch)) = engine.take(0) else {
        panic!("a record is there")
    };
    batch.json_bytes() - r#"{"Records":[]}"#.len() - 2
}

/// What a shard counts of its batches, told from the outside. Records arrive at 0, so a time is the age of each.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counted {
    batches: u64,
    records: u64,
    bytes: u64,
    handler_ms: u64,
    ages_sent_ms: u64,
    ages_ms: u64,
    failed_records: u64,
}

impl Counted {
    fn by(stats: &ShardStats) -> Self {
        let all = &stats.distributions;
        let count = |one: &Distribution| one.counts().iter().sum();
        let batches = count(&all.batch_records);
        for one in [
            &all.event_bytes,
            &all.handler_ms,
            &all.iterator_ages_sent_ms,
            &all.iterator_ages_ms,
        ] {
            assert_eq!(count(one), batches, "each batch counts once everywhere");
        }
        Self {
            batches,
            records: all.batch_records.sum(),
            bytes: all.event_bytes.sum(),
            handler_ms: all.handler_ms.sum(),
            ages_sent_ms: all.iterator_ages_sent_ms.sum(),
            ages_ms: all.iterator_ages_ms.sum(),
            failed_records: stats.counters.failed_records,
        }
    }
}

/// What the engine does, with request ids numbered in the order in which they came.
fn play(mapping: &MappingConfig, mut bad: Bad, records: usize) -> Vec<Step> {
    let (mut engine, shard) = engine_with(mapping.clone());
    engine
        .offer(shard, page(&written(&vec![0; records])), None, 0)
        .unwrap();
    let (mut now, mut steps, mut ids) = (0, Vec::new(), Vec::<String>::new());
    let mut counted = Counted::default();
    loop {
        match engine.take(now) {
            Taken::Task(Task::Run(batch)) => {
                let numbers_of = batch_numbers(&batch);
                if !ids.iter().any(|id| *id == batch.request_id()) {
                    ids.push(batch.request_id());
                }
                let identity = ids.iter().position(|id| *id == batch.request_id()).unwrap();
                steps.push(Step::Invoked(numbers_of.clone(), batch.attempt(), identity));
                counted.batches += 1;
                counted.records += batch.len() as u64;
                counted.bytes += batch.json_bytes() as u64;
                counted.handler_ms += 3;
                counted.ages_sent_ms += now.unsigned_abs();
                now += 3;
                counted.ages_ms += now.unsigned_abs();
                let response = Box::default();
                let outcome = match answer(&mut bad, &numbers_of) {
                    None => Outcome::Success,
                    Some((How::Raise, _)) => Outcome::Failure(response),
                    Some((How::Partial, at)) => Outcome::Partial {
                        index: u32::try_from(at).unwrap(),
                        response,
                    },
                    Some((How::Throttle, _)) => Outcome::Throttled,
                    Some((How::TooLarge, _)) => Outcome::TooLarge { request_id: None },
                };
                if outcome != Outcome::Success {
                    counted.failed_records += batch.len() as u64;
                }
                let finished = engine.finish(batch.ticket(), outcome, None, now).unwrap();
                tell(&finished, &ids, &mut steps);
                confirm_all(&mut engine, &finished);
            }
            // Only a record that is not sent again is given up without a batch.
            Taken::Task(Task::Deliver(discard)) => {
                let given_up = vec![*discard];
                let finished = Finished {
                    stale: false,
                    discards: given_up,
                };
                tell(&finished, &ids, &mut steps);
                confirm_all(&mut engine, &finished);
            }
            Taken::Wait(Some(at)) => now = at,
            Taken::Wait(None) => break,
        }
    }
    assert_eq!(engine.held_bytes(), 0);
    engine.check_invariants();
    assert_eq!(Counted::by(&engine.stats(shard).unwrap()), counted);
    steps
}

/// Request ids as numbers in the order in which they came, in the reference too.
fn renumbered(steps: Vec<Step>) -> Vec<Step> {
    let mut order: Vec<usize> = Vec::new();
    let mut number = |identity: usize| {
        order
            .iter()
            .position(|known| *known == identity)
            .unwrap_or_else(|| {
                order.push(identity);
                order.len() - 1
            })
    };
    steps
        .into_iter()
        .map(|step| match step {
            Step::Invoked(records, attempt, identity) => {
                Step::Invoked(records, attempt, number(identity))
            }
            Step::Discarded(records, count, identity) => {
                Step::Discarded(records, count, number(identity))
            }
        })
        .collect()
}

fn how() -> impl Strategy<Value = How> {
    prop_oneof![3 => Just(How::Raise), 3 => Just(How::Partial), 1 => Just(How::Throttle), 2 => Just(How::TooLarge)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    /// Bad records that stay bad, and some that recover.
    #[test]
    fn a_failing_batch_is_carried_on_as_the_recursive_reference_says(
        records in 1_usize..14,
        marked in btree_map(1_u64..14, (how(), prop_oneof![1_u32..4, Just(40)]), 0..6),
        batch_size in 1_u32..14,
        retries in 0_u32..5,
        bisect in any::<bool>(),
    ) {
        let mapping = MappingConfig {
            batch_size,
            retry_attempts_max: Some(retries),
            bisect_batch_on_function_error: bisect,
            report_batch_item_failures: true,
            ..MappingConfig::default()
        };
        let mut reference = Reference { mapping: &mapping, bad: marked.clone(), identities: 0, steps: Vec::new(), record_bytes: record_bytes(&mapping) };
        let all: Vec<u64> = (1..).take(records).collect();
        for batch in all.chunks(batch_size as usize) {
            reference.run(batch);
        }
        prop_assert_eq!(play(&mapping, marked, records), renumbered(reference.steps));
    }

    /// Splitting is free and bounded: every record is invoked at most (retries + 1) times alone, and once for each half it is in.
    #[test]
    fn a_batch_of_bad_records_ends(records in 1_usize..40, retries in 0_u32..3, bad in vec(any::<bool>(), 40)) {
        let mapping = MappingConfig {
            retry_attempts_max: Some(retries),
            bisect_batch_on_function_error: true,
            ..MappingConfig::default()
        };
        let marked: Bad = (1..).zip(bad).filter(|(_, bad)| *bad).map(|(number, _)| (number, (How::Raise, u32::MAX))).collect();
        let steps = play(&mapping, marked.clone(), records);
        let discarded: Vec<u64> = steps.iter().filter_map(|step| match step {
            Step::Discarded(records, count, _) => {
                assert_eq!((records.len(), *count), (1, retries + 1));
                Some(records[0])
            }
            Step::Invoked(..) => None,
        }).collect();
        let expected: Vec<u64> = marked.keys().copied().filter(|number| *number <= records as u64).collect();
        prop_assert_eq!(discarded, expected);
    }
}
