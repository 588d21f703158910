//! A call that fails changes nothing, whatever is wrong with it; and the same calls give the same trace (I13).

use proptest::collection::vec;
use proptest::prelude::*;
use streamcore::{
    Batch, Checkpoint, CheckpointKey, Condition, Engine, Event, MappingConfig, Outcome,
    PageBuilder, ReturnedState, ShardStats, Start, Taken, Task, Ticket, UsageError,
};

use super::{engine_with, page, shard_config, written};

/// All that can be seen of an engine with one shard.
fn seen(
    engine: &mut Engine,
    shard: u32,
) -> (
    ShardStats,
    usize,
    bool,
    Vec<(u32, Event)>,
    Option<Checkpoint>,
) {
    let checkpoint = engine
        .checkpoint(shard)
        .unwrap()
        .map(|snapshot| snapshot.checkpoint);
    (
        engine.stats(shard).unwrap(),
        engine.held_bytes(),
        engine.is_ready(),
        engine.drain_trace(),
        checkpoint,
    )
}

/// Makes the call, and compares the engine before and after.
fn fails(
    engine: &mut Engine,
    shard: u32,
    call: impl FnOnce(&mut Engine) -> UsageError,
) -> UsageError {
    engine.drain_trace();
    let before = seen(engine, shard);
    let error = call(engine);
    assert_eq!(seen(engine, shard), before, "{error}: nothing was changed");
    engine.check_invariants();
    error
}

type Call = fn(&mut Engine) -> Result<(), UsageError>;

fn mapping() -> MappingConfig {
    MappingConfig {
        batch_size: 2,
        retry_attempts_max: Some(0),
        ..MappingConfig::default()
    }
}

/// An engine that keeps its trace, with three records in one shard, and two of them in flight.
fn engine() -> (Engine, u32, Batch) {
    let (mut engine, shard) = engine_with(mapping());
    engine.enable_trace();
    engine
        .offer(shard, page(&written(&[1, 2, 3])), None, 0)
        .unwrap();
    let Taken::Task(Task::Run(batch)) = engine.take(0) else {
        panic!("a batch is ready")
    };
    (engine, shard, batch)
}

#[test]
fn a_handle_that_no_shard_has() {
    let (mut engine, shard, _) = engine();
    let calls: [Call; 14] = [
        |engine| engine.stats(7).map(drop),
        |engine| engine.config(7).map(drop),
        |engine| engine.wants(7, 0).map(drop),
        |engine| engine.fetch_failed(7),
        |engine| engine.offer(7, page(&written(&[1])), None, 0).map(drop),
        |engine| engine.checkpoint(7).map(drop),
        |engine| engine.saved(7, 1),
        |engine| engine.close(7, 0),
        |engine| engine.pause(7),
        |engine| engine.resume(7, 0),
        |engine| engine.drain(7, 0),
        |engine| engine.update(7, MappingConfig::default(), 0),
        |engine| engine.remove(7).map(drop),
        |engine| engine.remove(u32::MAX).map(drop),
    ];
    for call in calls {
        let error = fails(&mut engine, shard, |engine| call(engine).unwrap_err());
        assert!(
            matches!(
                error,
                UsageError::NoShard {
                    shard: 7 | u32::MAX
                }
            ),
            "{error}"
        );
    }
}

#[test]
fn a_shard_that_cannot_be_added() {
    let (mut engine, shard, _) = engine();
    let again = shard_config("mapping", "shard", mapping());
    let error = fails(&mut engine, shard, |engine| {
        engine.add_shard(again, None).unwrap_err()
    });
    assert_eq!(
        error,
        UsageError::ShardExists {
            shard_id: "shard".into()
        }
    );

    let wrong = MappingConfig {
        batch_size: 10_001,
        ..mapping()
    };
    let config = shard_config("mapping", "other", wrong.clone());
    let error = fails(&mut engine, shard, |engine| {
        engine.add_shard(config, None).unwrap_err()
    });
    assert!(matches!(error, UsageError::Config(_)));

    let key = CheckpointKey {
        mapping_uuid: "mapping".into(),
        stream_identity: "another".into(),
        shard_id: "other".into(),
    };
    let config = shard_config("mapping", "other", mapping());
    let foreign = Checkpoint::fresh(key, Start::TrimHorizon);
    let error = fails(&mut engine, shard, |engine| {
        engine.add_shard(config, Some(foreign)).unwrap_err()
    });
    assert!(matches!(error, UsageError::Checkpoint(_)));
    assert_eq!(engine.handles(), [shard]);
}

fn finish(
    ticket: Ticket,
    outcome: Outcome,
    state: Option<ReturnedState>,
) -> impl FnOnce(&mut Engine) -> UsageError {
    move |engine| engine.finish(ticket, outcome, state, 0).unwrap_err()
}

#[test]
fn a_batch_that_cannot_be_finished_so() {
    let (mut engine, shard, batch) = engine();
    let number = batch.ticket().to_u64();
    for made_up in [0, 1, u64::MAX, number + 1, number | 0xf << 36] {
        let error = fails(
            &mut engine,
            shard,
            finish(Ticket::from_u64(made_up), Outcome::Success, None),
        );
        assert_eq!(error, UsageError::NotInFlight, "{made_up:#x}");
    }
    let partial = Outcome::Partial {
        index: 2,
        response: Box::default(),
    };
    let error = fails(&mut engine, shard, finish(batch.ticket(), partial, None));
    assert_eq!(
        error,
        UsageError::NoSuchRecord {
            index: 2,
            records: 2
        }
    );
    let state = ReturnedState {
        state: b"{}".to_vec(),
        ends_window: false,
    };
    let error = fails(
        &mut engine,
        shard,
        finish(batch.ticket(), Outcome::Success, Some(state)),
    );
    assert_eq!(error, UsageError::NoWindow);
    engine
        .finish(batch.ticket(), Outcome::Success, None, 0)
        .unwrap();
    let error = fails(
        &mut engine,
        shard,
        finish(batch.ticket(), Outcome::Success, None),
    );
    assert_eq!(error, UsageError::NotInFlight);
}

#[test]
fn an_update_that_cannot_be_made() {
    let (mut engine, shard, batch) = engine();
    let wrong = MappingConfig {
        parallelization_factor: 0,
        ..mapping()
    };
    let error = fails(&mut engine, shard, |engine| {
        engine.update(shard, wrong, 0).unwrap_err()
    });
    assert!(matches!(error, UsageError::Config(_)));
    let update = |engine: &mut Engine| engine.update(shard, mapping(), 0).unwrap_err();
    let error = fails(&mut engine, shard, update);
    assert_eq!(
        error,
        UsageError::Busy {
            in_flight: 1,
            unconfirmed: 0
        }
    );
    let finished = engine
        .finish(batch.ticket(), Outcome::Failure(Box::default()), None, 0)
        .unwrap();
    let [discard] = finished.discards.as_slice() else {
        panic!("one discard")
    };
    assert_eq!(
        (discard.condition(), discard.len()),
        (Condition::RetryAttemptsExhausted, 2)
    );
    let error = fails(&mut engine, shard, update);
    assert_eq!(
        error,
        UsageError::Busy {
            in_flight: 0,
            unconfirmed: 1
        }
    );
}

#[test]
fn a_page_that_cannot_be_taken_in() {
    let (mut engine, shard, _) = engine();
    let mut builder = PageBuilder::new();
    builder
        .push("key", b"1", 0, Some(&"9".repeat(129)))
        .unwrap();
    builder.push("key", b"1", 0, None).unwrap();
    let full = builder.finish();
    let error = fails(&mut engine, shard, |engine| {
        engine.offer(shard, full, Some(5), 0).unwrap_err()
    });
    assert!(matches!(error, UsageError::NoSuccessor { .. }));
    engine.close(shard, 0).unwrap();
    let late = page(&written(&[1, 1, 1, 1, 1]));
    let error = fails(&mut engine, shard, |engine| {
        engine.offer(shard, late, Some(5), 0).unwrap_err()
    });
    assert_eq!(error, UsageError::Closed);
}

/// A few shards under a few calls, decided by bytes.
fn trace_of(choices: &[u8]) -> Vec<String> {
    let mut engine = Engine::new(100_000);
    engine.enable_trace();
    let mapping = MappingConfig {
        batch_size: 3,
        parallelization_factor: 3,
        retry_attempts_max: Some(2),
        bisect_batch_on_function_error: true,
        batching_window_ms: 1_000,
        ..MappingConfig::default()
    };
    let shards: Vec<u32> = ["a", "b", "c"]
        .iter()
        .map(|name| {
            engine
                .add_shard(shard_config("mapping", name, mapping.clone()), None)
                .unwrap()
        })
        .collect();
    let (mut now, mut running) = (0, Vec::new());
    let mut bytes = Vec::new();
    for choice in choices {
        let shard = shards[usize::from(choice >> 6) % 3];
        match choice & 7 {
            0 => {
                let mut builder = PageBuilder::new();
                for key in 0..choice >> 3 {
                    builder.push(&key.to_string(), &[key], now, None).unwrap();
                }
                engine.offer(shard, builder.finish(), None, now).unwrap();
            }
            1..=3 => {
                if let Taken::Task(Task::Run(batch)) = engine.take(now) {
                    bytes.push(String::from_utf8(batch.json()).unwrap());
                    running.push(batch.ticket());
                }
            }
            4 => now += i64::from(*choice) * 10,
            _ => {
                if let Some(ticket) = running.pop() {
                    let response = Box::default();
                    let outcome = match choice >> 3 & 3 {
                        0 => Outcome::Failure(response),
                        1 => Outcome::Partial { index: 0, response },
                        2 if choice & 1 == 0 => Outcome::TooLarge { request_id: None },
                        2 => Outcome::Throttled,
                        _ => Outcome::Success,
                    };
                    engine.finish(ticket, outcome, None, now).unwrap();
                }
            }
        }
    }
    engine.check_invariants();
    let trace = engine
        .drain_trace()
        .into_iter()
        .map(|(shard, event)| format!("{shard} {event}"));
    trace.chain(bytes).collect()
}

proptest! {
    #[test]
    fn the_same_calls_give_the_same_trace(choices in vec(any::<u8>(), 1..300)) {
        prop_assert_eq!(trace_of(&choices), trace_of(&choices));
    }
}
