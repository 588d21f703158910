//! The engine's budget, and the memory that is given back (I10).

use proptest::collection::vec;
use proptest::prelude::*;
use streamcore::{Engine, Event, MappingConfig, Outcome, Page, PageBuilder, Taken, Task};

use super::{engine_with, shard_config};

/// A page of records of one size after this number, all of one key.
fn page_after(number: u64, records: u64, bytes: usize) -> Page {
    let mut builder = PageBuilder::new();
    for next in number + 1..=number + records {
        builder
            .push("key", &vec![1; bytes], 0, Some(&next.to_string()))
            .unwrap();
    }
    builder.finish()
}

struct Fed {
    handle: u32,
    number: u64,
    fetching: bool,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// What is held stays within the budget and a page a shard, an empty shard may always fetch, and at the end nothing is held.
    #[test]
    fn the_budget_is_kept(
        shards in 1_usize..6,
        budget in 1_000_usize..200_000,
        bytes in 1_usize..3_000,
        steps in vec((0_usize..6, 0_u8..6), 1..200),
    ) {
        const RECORDS: u64 = 4;
        let mut engine = Engine::new(budget);
        let mut fed: Vec<Fed> = (0..shards)
            .map(|n| {
                let config = shard_config("mapping", &n.to_string(), MappingConfig { batching_window_ms: 300_000, ..MappingConfig::default() });
                Fed { handle: engine.add_shard(config, None).unwrap(), number: 0, fetching: false }
            })
            .collect();
        let one_page = page_after(1_000, RECORDS, bytes).held_bytes() + 200;
        for (which, what) in steps {
            let own = &mut fed[which % shards];
            let page = page_after(own.number, RECORDS, bytes);
            let held = engine.stats(own.handle).unwrap().held_bytes;
            match what {
                0 | 1 => {
                    let want = engine.wants(own.handle, 0).unwrap();
                    prop_assert!(want.is_some() || own.fetching || held > 0, "an empty shard may always fetch");
                    prop_assert!(want.is_none() || !own.fetching, "one fetch at a time");
                    own.fetching |= want.is_some();
                }
                2 if own.fetching => {
                    prop_assert!(engine.offer(own.handle, page, None, 0).unwrap().accepted, "what was asked for is taken in");
                    (own.number, own.fetching) = (own.number + RECORDS, false);
                }
                3 if own.fetching => {
                    engine.fetch_failed(own.handle).unwrap();
                    own.fetching = false;
                }
                4 if !own.fetching => {
                    let before = engine.stats(own.handle).unwrap();
                    let offered = engine.offer(own.handle, page, None, 0).unwrap();
                    if offered.accepted {
                        own.number += RECORDS;
                    } else {
                        prop_assert!(held > 0, "an empty shard takes a page");
                        let after = engine.stats(own.handle).unwrap();
                        prop_assert_eq!((after.held_records, after.held_bytes, after.last_taken_in), (before.held_records, before.held_bytes, before.last_taken_in));
                    }
                }
                5 => {
                    if let Taken::Task(Task::Run(batch)) = engine.take(0) {
                        engine.finish(batch.ticket(), Outcome::Success, None, 0).unwrap();
                    }
                }
                _ => {}
            }
            prop_assert!(engine.held_bytes() <= budget + shards * one_page, "{} of {budget}", engine.held_bytes());
            engine.check_invariants();
        }
        for own in &fed {
            if own.fetching {
                engine.fetch_failed(own.handle).unwrap();
            }
            engine.drain(own.handle, 0).unwrap();
        }
        while let Taken::Task(Task::Run(batch)) = engine.take(0) {
            engine.finish(batch.ticket(), Outcome::Success, None, 0).unwrap();
        }
        prop_assert_eq!(engine.held_bytes(), 0);
        engine.check_invariants();
    }
}

/// A page that finds no room is refused whole, closes what waits, and is taken in when there is room again.
#[test]
fn a_refused_page_can_be_offered_again() {
    let mut engine = Engine::new(20_000);
    let mapping = MappingConfig {
        batching_window_ms: 300_000,
        ..MappingConfig::default()
    };
    let shard = engine
        .add_shard(shard_config("mapping", "shard", mapping), None)
        .unwrap();
    assert!(
        engine
            .offer(shard, page_after(0, 4, 3_000), None, 0)
            .unwrap()
            .accepted
    );
    assert!(matches!(engine.take(0), Taken::Wait(Some(300_000))));
    let refused = engine
        .offer(shard, page_after(4, 4, 3_000), None, 0)
        .unwrap();
    assert_eq!((refused.accepted, refused.records), (false, 0));
    assert_eq!(engine.wants(shard, 0).unwrap(), None);
    let Taken::Task(Task::Run(batch)) = engine.take(0) else {
        panic!("a shard that may not fetch does not wait")
    };
    engine
        .finish(batch.ticket(), Outcome::Success, None, 0)
        .unwrap();
    let offered = engine
        .offer(shard, page_after(4, 4, 3_000), None, 0)
        .unwrap();
    assert_eq!(
        (offered.accepted, offered.records, offered.duplicates),
        (true, 4, 0)
    );
}

/// A page that is an error says nothing of the size of the next one.
#[test]
fn a_failed_offer_does_not_raise_what_a_fetch_reserves() {
    let mut engine = Engine::new(200_000);
    let shard = engine
        .add_shard(
            shard_config("mapping", "shard", MappingConfig::default()),
            None,
        )
        .unwrap();
    assert!(
        engine
            .offer(shard, page_after(0, 1, 1), None, 0)
            .unwrap()
            .accepted
    );
    for _ in 0..5 {
        assert!(engine.wants(shard, 0).unwrap().is_some(), "there is room");
        let mut builder = PageBuilder::new();
        builder
            .push("key", &vec![1; 300_000], 0, Some(&"9".repeat(129)))
            .unwrap();
        builder.push("key", &[1], 0, None).unwrap();
        engine.offer(shard, builder.finish(), None, 0).unwrap_err();
        engine.fetch_failed(shard).unwrap();
    }
    assert!(engine.wants(shard, 0).unwrap().is_some(), "there is room");
}

/// Many shards get less each: one that is full does not keep the others from fetching.
#[test]
fn a_full_shard_leaves_room_for_the_others() {
    let mut engine = Engine::new(1 << 20);
    let shards: Vec<u32> = (0..4)
        .map(|n| {
            engine
                .add_shard(
                    shard_config("mapping", &n.to_string(), MappingConfig::default()),
                    None,
                )
                .unwrap()
        })
        .collect();
    let fill = |engine: &mut Engine, shard: u32| {
        let mut number = 0;
        while engine
            .offer(shard, page_after(number, 8, 4_000), None, 0)
            .unwrap()
            .accepted
        {
            number += 8;
        }
        engine.stats(shard).unwrap().held_bytes
    };
    let held: Vec<usize> = shards
        .iter()
        .map(|shard| fill(&mut engine, *shard))
        .collect();
    assert!(
        held[0] <= (1 << 19) + (1 << 17),
        "the first leaves half: {held:?}"
    );
    assert!(
        held.iter().all(|held| *held >= 1 << 15),
        "each holds a page: {held:?}"
    );
    assert!(engine.held_bytes() <= (1 << 20) + 4 * (1 << 17));
}

/// A stuck key does not pin its neighbours: what is alive of the page moves, with the same event bytes.
#[test]
fn a_page_behind_a_parked_lane_is_compacted() {
    let mapping = MappingConfig {
        batch_size: 1_000,
        parallelization_factor: 10,
        ..MappingConfig::default()
    };
    let (mut engine, shard) = engine_with(mapping);
    engine.enable_trace();
    let mut builder = PageBuilder::new();
    for number in 1..=500_u32 {
        let key = if number == 250 {
            "stuck".to_owned()
        } else {
            format!("key-{}", number % 40)
        };
        builder
            .push(&key, &[5; 400], 0, Some(&number.to_string()))
            .unwrap();
    }
    engine.offer(shard, builder.finish(), None, 0).unwrap();
    let full = engine.held_bytes();
    let (mut now, mut events, mut live) = (0, Vec::new(), 0);
    for _ in 0..30 {
        match engine.take(now) {
            Taken::Task(Task::Run(batch)) => {
                let stuck = batch
                    .records()
                    .iter()
                    .any(|record| record.sequence() == "250");
                let outcome = if stuck {
                    Outcome::Failure(Box::default())
                } else {
                    Outcome::Success
                };
                if stuck {
                    events.push(batch.json());
                    live = batch.len();
                }
                engine.finish(batch.ticket(), outcome, None, now).unwrap();
            }
            Taken::Task(Task::Deliver(discard)) => panic!("{discard:?}"),
            Taken::Wait(at) => now = at.expect("the stuck lane is tried again"),
        }
    }
    assert!(
        events.len() > 3 && events.windows(2).all(|two| two[0] == two[1]),
        "an event does not change"
    );
    let compacted = engine
        .drain_trace()
        .into_iter()
        .filter(|(_, event)| matches!(event, Event::Compacted { .. }))
        .count();
    assert_eq!(compacted, 1);
    let stats = engine.stats(shard).unwrap();
    assert_eq!(stats.held_records, live as u64);
    assert!(
        stats.held_bytes <= full * live / 500 + 4_096,
        "{} of {full} for {live} of 500 records",
        stats.held_bytes
    );
    let first: u64 = stats
        .lanes
        .iter()
        .find_map(|lane| lane.first_sequence_number.as_ref())
        .unwrap()
        .parse()
        .unwrap();
    let watermark = stats
        .watermark
        .map_or(0, |position| position.sequence.as_str().parse().unwrap());
    assert_eq!(
        watermark,
        first - 1,
        "the watermark is the record before the lowest incomplete one"
    );
    engine.check_invariants();
}
