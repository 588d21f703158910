//! Who goes next among shards and mappings, and that a cap holds without holding anybody up (I4, I11).

use proptest::collection::vec;
use proptest::prelude::*;
use streamcore::{Batch, Engine, MappingConfig, Outcome, Taken, Task};

use super::{page, shard_config, written};

fn take(engine: &mut Engine) -> Option<Batch> {
    match engine.take(0) {
        Taken::Task(Task::Run(batch)) => Some(batch),
        Taken::Task(Task::Deliver(discard)) => panic!("{discard:?}"),
        Taken::Wait(_) => None,
    }
}

/// Finishes a batch a millisecond after it was handed out.
fn finish(engine: &mut Engine, batch: &Batch) {
    engine
        .finish(batch.ticket(), Outcome::Success, None, 1)
        .unwrap();
}

fn one_by_one() -> MappingConfig {
    MappingConfig {
        batch_size: 1,
        ..MappingConfig::default()
    }
}

#[test]
fn first_ready_is_first_served() {
    let mut engine = Engine::default();
    let shards: Vec<u32> = (0..5)
        .map(|n| {
            engine
                .add_shard(shard_config("m", &n.to_string(), one_by_one()), None)
                .unwrap()
        })
        .collect();
    let order = [3, 0, 4, 1, 2];
    for at in order {
        engine
            .offer(shards[at], page(&written(&[1, 1])), None, 0)
            .unwrap();
    }
    let mut running = Vec::new();
    for at in order {
        let batch = take(&mut engine).unwrap();
        assert_eq!(batch.ticket().shard(), shards[at]);
        running.push(batch);
    }
    // Whoever ends first is ready first.
    for at in [2, 4, 0] {
        finish(&mut engine, &running[at]);
    }
    for at in [2, 4, 0] {
        assert_eq!(
            take(&mut engine).unwrap().ticket().shard(),
            running[at].ticket().shard()
        );
    }
    assert!(take(&mut engine).is_none());
}

#[test]
fn a_shard_with_many_ready_lanes_gives_one_batch_and_lets_the_next_shard_go() {
    let mut engine = Engine::default();
    let wide = MappingConfig {
        parallelization_factor: 10,
        ..one_by_one()
    };
    let busy = engine
        .add_shard(shard_config("m", "busy", wide), None)
        .unwrap();
    let quiet = engine
        .add_shard(shard_config("m", "quiet", one_by_one()), None)
        .unwrap();
    engine
        .offer(busy, page(&written(&(0..50).collect::<Vec<_>>())), None, 0)
        .unwrap();
    engine.offer(quiet, page(&written(&[1])), None, 0).unwrap();
    let shards: Vec<u32> = std::iter::from_fn(|| take(&mut engine))
        .map(|batch| batch.ticket().shard())
        .collect();
    assert_eq!(shards[..3], [busy, quiet, busy]);
    assert_eq!(shards.len(), 11);
}

/// Two shards that are ready ten times over; which is handed out when each batch takes so many milliseconds, and so many pass between two.
fn shards_in_turn(batch_ms: i64, pause_ms: i64) -> Vec<u32> {
    let mut engine = Engine::default();
    let wide = MappingConfig {
        parallelization_factor: 10,
        ..one_by_one()
    };
    for name in ["left", "right"] {
        let shard = engine
            .add_shard(shard_config("m", name, wide.clone()), None)
            .unwrap();
        let numbers: Vec<u8> = (0..200).collect();
        engine
            .offer(shard, page(&written(&numbers)), None, 0)
            .unwrap();
    }
    let mut now = 0;
    std::iter::from_fn(|| {
        let Taken::Task(Task::Run(batch)) = engine.take(now) else {
            return None;
        };
        now += batch_ms;
        engine
            .finish(batch.ticket(), Outcome::Success, None, now)
            .unwrap();
        now += pause_ms;
        Some(batch.ticket().shard())
    })
    .take(60)
    .collect()
}

#[test]
fn a_shard_has_ten_batches_in_a_row_where_they_take_no_time() {
    let (left, right) = ([0; 10], [1; 10]);
    let expected = [left, right, left, right, left, right].concat();
    assert_eq!(shards_in_turn(0, 0), expected);
    assert_eq!(shards_in_turn(0, 1), expected);
}

#[test]
fn shards_take_turns_where_a_batch_takes_time() {
    assert_eq!(shards_in_turn(1, 0), [0, 1].repeat(30));
}

#[test]
fn a_shard_that_becomes_ready_meanwhile_goes_first() {
    let mut engine = Engine::default();
    let [busy, other] = ["busy", "other"].map(|name| {
        engine
            .add_shard(shard_config("m", name, one_by_one()), None)
            .unwrap()
    });
    engine
        .offer(busy, page(&written(&[1, 1])), None, 0)
        .unwrap();
    let first = take(&mut engine).unwrap();
    assert_eq!(first.ticket().shard(), busy);
    engine.offer(other, page(&written(&[1])), None, 0).unwrap();
    engine
        .finish(first.ticket(), Outcome::Success, None, 0)
        .unwrap();
    assert_eq!(take(&mut engine).unwrap().ticket().shard(), other);
}

#[test]
fn a_capped_mapping_does_not_hold_another() {
    let mut engine = Engine::default();
    let slow: Vec<u32> = (0..3)
        .map(|n| {
            engine
                .add_shard(shard_config("slow", &n.to_string(), one_by_one()), None)
                .unwrap()
        })
        .collect();
    let other = engine
        .add_shard(shard_config("other", "0", one_by_one()), None)
        .unwrap();
    engine.cap("slow", Some(2));
    for shard in slow.iter().chain([&other]) {
        engine
            .offer(*shard, page(&written(&[1, 1])), None, 0)
            .unwrap();
    }
    let running: Vec<Batch> = std::iter::from_fn(|| take(&mut engine)).collect();
    let shards: Vec<u32> = running.iter().map(|batch| batch.ticket().shard()).collect();
    assert_eq!(shards, [slow[0], slow[1], other]);
    finish(&mut engine, &running[0]);
    assert_eq!(take(&mut engine).unwrap().ticket().shard(), slow[2]);
    assert!(take(&mut engine).is_none());
    engine.cap("slow", None);
    assert_eq!(take(&mut engine).unwrap().ticket().shard(), slow[0]);
}

/// Under a cap of one, a shard that has just run goes behind those that have waited.
#[test]
fn shards_under_a_cap_take_turns() {
    let mut engine = Engine::default();
    let shards: Vec<u32> = (0..3)
        .map(|n| {
            engine
                .add_shard(shard_config("m", &n.to_string(), one_by_one()), None)
                .unwrap()
        })
        .collect();
    engine.cap("m", Some(1));
    for shard in &shards {
        engine
            .offer(*shard, page(&written(&[1, 1, 1])), None, 0)
            .unwrap();
    }
    let mut order = Vec::new();
    while let Some(batch) = take(&mut engine) {
        assert!(take(&mut engine).is_none());
        order.push(batch.ticket().shard());
        finish(&mut engine, &batch);
    }
    assert_eq!(order, shards.repeat(3));
}

/// A place under the cap that the next shard cannot use goes to the one behind it.
#[test]
fn a_place_under_the_cap_is_not_lost_on_a_paused_shard() {
    let mut engine = Engine::default();
    let shards: Vec<u32> = (0..3)
        .map(|n| {
            engine
                .add_shard(shard_config("m", &n.to_string(), one_by_one()), None)
                .unwrap()
        })
        .collect();
    engine.cap("m", Some(1));
    for shard in &shards {
        engine.offer(*shard, page(&written(&[1])), None, 0).unwrap();
    }
    let first = take(&mut engine).unwrap();
    assert!(take(&mut engine).is_none());
    engine.pause(shards[1]).unwrap();
    finish(&mut engine, &first);
    assert_eq!(take(&mut engine).unwrap().ticket().shard(), shards[2]);
    engine.check_invariants();
}

/// The same where the next shard gives something up instead of running a batch.
#[test]
fn a_place_under_the_cap_is_not_lost_on_a_discard() {
    let mut engine = Engine::default();
    let small = MappingConfig {
        payload_bytes_max: 1_000,
        retry_attempts_max: Some(0),
        ..one_by_one()
    };
    let shards: Vec<u32> = (0..3)
        .map(|n| {
            engine
                .add_shard(shard_config("m", &n.to_string(), small.clone()), None)
                .unwrap()
        })
        .collect();
    engine.cap("m", Some(1));
    for (n, shard) in shards.iter().enumerate() {
        let mut records = written(&[1]);
        records[0].bytes = if n == 1 { 2_000 } else { 1 };
        engine.offer(*shard, page(&records), None, 0).unwrap();
    }
    let first = take(&mut engine).unwrap();
    assert!(take(&mut engine).is_none());
    finish(&mut engine, &first);
    let Taken::Task(Task::Deliver(discard)) = engine.take(0) else {
        panic!("the oversized record is given up")
    };
    assert_eq!(discard.id().shard(), shards[1]);
    assert_eq!(take(&mut engine).unwrap().ticket().shard(), shards[2]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// No more than the cap run at once, and in the end every record has run.
    #[test]
    fn a_cap_holds_and_everything_ends(
        shards in 1_usize..5,
        factor in 1_u8..4,
        cap in 1_usize..4,
        records in 1_usize..12,
        steps in vec((0_usize..5, 0_u8..8), 0..150),
    ) {
        let mut engine = Engine::default();
        engine.cap("m", Some(cap));
        let mapping = MappingConfig { parallelization_factor: factor, ..one_by_one() };
        let handles: Vec<u32> =
            (0..shards).map(|n| engine.add_shard(shard_config("m", &n.to_string(), mapping.clone()), None).unwrap()).collect();
        for shard in &handles {
            let keys: Vec<u8> = (0..).take(records).collect();
            engine.offer(*shard, page(&written(&keys)), None, 0).unwrap();
        }
        let (mut running, mut now): (Vec<Batch>, i64) = (Vec::new(), 0);
        for (which, what) in steps {
            let shard = handles[which % shards];
            match what {
                0 => engine.pause(shard).unwrap(),
                1 => engine.resume(shard, now).unwrap(),
                2 | 3 if !running.is_empty() => {
                    let batch = running.swap_remove(which % running.len());
                    let outcome = if what == 2 { Outcome::Success } else { Outcome::Failure(Box::default()) };
                    engine.finish(batch.ticket(), outcome, None, now).unwrap();
                }
                4 => now += 100,
                _ => {
                    if let Taken::Task(Task::Run(batch)) = engine.take(now) {
                        running.push(batch);
                    }
                }
            }
            prop_assert!(running.len() <= cap);
            engine.check_invariants();
        }
        for shard in &handles {
            engine.resume(*shard, now).unwrap();
        }
        loop {
            match engine.take(now) {
                Taken::Task(Task::Run(batch)) => running.push(batch),
                Taken::Task(Task::Deliver(discard)) => panic!("{discard:?}"),
                Taken::Wait(at) => match (running.pop(), at) {
                    (Some(batch), _) => {
                        engine.finish(batch.ticket(), Outcome::Success, None, now).unwrap();
                    }
                    (None, Some(at)) => now = at,
                    (None, None) => break,
                },
            }
            prop_assert!(running.len() <= cap);
        }
        for shard in &handles {
            let stats = engine.stats(*shard).unwrap();
            prop_assert_eq!(stats.counters.succeeded, records as u64);
        }
        prop_assert_eq!(engine.held_bytes(), 0);
    }
}
