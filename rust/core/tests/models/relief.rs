//! A batch whose records move while it is in flight: beside one whose records stay, nothing else is different.

use proptest::collection::vec;
use proptest::prelude::*;
use streamcore::{
    Batch, Confirmation, Engine, Event, MappingConfig, Outcome, PageBuilder, RELIEF_STEP_BYTES,
    ShardConfig, Taken, Task,
};

use super::{numbers, shard_config};

const RECORDS: u32 = 1_200;
const LANES: u8 = 3;

/// What the function says each time, over and over. Of a partial answer: in how many thousandths of the batch it lies.
#[derive(Debug, Clone, Copy)]
enum Answer {
    Success,
    Failure,
    Partial(usize),
    Throttled,
    TooLarge,
}

fn answer() -> impl Strategy<Value = Answer> {
    prop_oneof![
        Just(Answer::Success),
        Just(Answer::Failure),
        (0..1_000_usize).prop_map(Answer::Partial),
        Just(Answer::Throttled),
        Just(Answer::TooLarge),
    ]
}

impl Answer {
    fn outcome(self, batch: &Batch) -> Outcome {
        let response = Box::default();
        match self {
            Self::Success => Outcome::Success,
            Self::Failure => Outcome::Failure(response),
            Self::Partial(part) => Outcome::Partial {
                index: u32::try_from(batch.len() * part / 1_000).unwrap(),
                response,
            },
            Self::Throttled => Outcome::Throttled,
            Self::TooLarge => Outcome::TooLarge { request_id: None },
        }
    }
}

/// An engine that has read all records in pages of `page_records`, and the first batch of the lane that is to hang.
fn engine(mapping: &MappingConfig, page_records: usize, step_bytes: u64) -> (Engine, Batch) {
    let mut engine = filled(mapping, page_records, step_bytes);
    let Taken::Task(Task::Run(batch)) = engine.take(0) else {
        panic!("a batch is ready")
    };
    (engine, batch)
}

fn filled(mapping: &MappingConfig, page_records: usize, step_bytes: u64) -> Engine {
    let config = ShardConfig {
        relief_step_bytes: step_bytes,
        ..shard_config("mapping", "shard", mapping.clone())
    };
    let mut engine = Engine::default();
    engine.enable_trace();
    let shard = engine.add_shard(config, None).unwrap();
    let all: Vec<u32> = (1..=RECORDS).collect();
    for page in all.chunks(page_records) {
        let mut builder = PageBuilder::new();
        for number in page {
            let key = format!("key-{}", number.wrapping_mul(2_654_435_761) >> 27);
            builder
                .push(
                    &key,
                    &[5; 60],
                    i64::from(*number),
                    Some(&number.to_string()),
                )
                .unwrap();
        }
        engine.offer(shard, builder.finish(), None, 0).unwrap();
    }
    engine
}

fn lane(batch: &Batch) -> u8 {
    let records = batch.records();
    streamcore::lane(records.first().unwrap().key_hash(), LANES)
}

/// Everything that can be read of a batch, but for its request id, which counts the batches before it.
#[derive(Debug, PartialEq)]
struct Read {
    attempt: u32,
    event: String,
    /// Ordinal, hash and payload of each record.
    records: Vec<(u64, u64, Vec<u8>)>,
}

fn read(batch: &Batch) -> Read {
    let records = batch.records();
    let records = records.numbered().map(|(ordinal, hash, record)| {
        let mut payload = Vec::new();
        record.payload_into(&mut payload).unwrap();
        (ordinal, hash, payload)
    });
    Read {
        attempt: batch.attempt(),
        event: String::from_utf8(batch.json()).unwrap(),
        records: records.collect(),
    }
}

/// Finishes every batch of the other lanes that there is.
fn run_others(engine: &mut Engine, own: u8, now: i64) {
    while let Taken::Task(Task::Run(batch)) = engine.take(now) {
        assert_ne!(lane(&batch), own, "one batch a lane");
        engine
            .finish(batch.ticket(), Outcome::Success, None, now)
            .unwrap();
    }
}

/// How many records of the batch in flight, and of those that wait behind it, have moved since this was last asked.
fn moved(engine: &mut Engine) -> [u32; 2] {
    let mut moved = [0; 2];
    for (_, event) in engine.drain_trace() {
        if let Event::Compacted {
            records, in_flight, ..
        } = event
        {
            moved[usize::from(!in_flight)] += records;
        }
    }
    moved
}

/// Carries the lane of `batch` on to its end. Tells each batch and each discard of it.
fn carry_on(engine: &mut Engine, batch: Batch, answers: &[Answer], mut now: i64) -> Vec<String> {
    let own = lane(&batch);
    let mut told = Vec::new();
    let mut answers = answers.iter().cycle().copied();
    let mut tasks = vec![Task::Run(batch)];
    loop {
        for task in std::mem::take(&mut tasks) {
            match task {
                Task::Run(batch) if lane(&batch) == own => {
                    told.push(format!("{:?}", read(&batch)));
                    let outcome = answers.next().unwrap().outcome(&batch);
                    let finished = engine.finish(batch.ticket(), outcome, None, now).unwrap();
                    tasks.extend(
                        finished
                            .discards
                            .into_iter()
                            .map(Box::new)
                            .map(Task::Deliver),
                    );
                }
                Task::Run(batch) => {
                    engine
                        .finish(batch.ticket(), Outcome::Success, None, now)
                        .unwrap();
                }
                Task::Deliver(discard) => {
                    let count = discard.approximate_invoke_count();
                    let records = numbers(discard.records());
                    told.push(format!("{:?} {count} {records:?}", discard.condition()));
                    assert!(engine.confirm(discard.id(), Confirmation::Delivered));
                }
            }
        }
        if !tasks.is_empty() {
            continue;
        }
        match engine.take(now) {
            Taken::Task(task) => tasks.push(task),
            Taken::Wait(Some(at)) => now = at,
            Taken::Wait(None) => return told,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn a_batch_that_moves_in_flight_reads_and_ends_as_one_that_stays(
        batch_size in 1_u32..80,
        page_records in 40_usize..400,
        bisect in any::<bool>(),
        retries in 0_u32..3,
        answers in vec(answer(), 1..8),
        step_bytes in prop_oneof![Just(RELIEF_STEP_BYTES), 1_u64..20_000],
        steps in 0..40,
    ) {
        let mapping = MappingConfig {
            batch_size,
            parallelization_factor: LANES,
            bisect_batch_on_function_error: bisect,
            retry_attempts_max: Some(retries),
            report_batch_item_failures: true,
            ..MappingConfig::default()
        };
        // A lane that is only throttled has no end.
        let answers: Vec<Answer> = answers.into_iter().chain([Answer::Failure]).collect();
        let (mut stays, batch) = engine(&mapping, page_records, step_bytes);
        let first = read(&batch);
        let own = lane(&batch);
        let expected = carry_on(&mut stays, batch, &answers, 0);

        // One that nobody shares moves too, and is read in its new place by who asks for it then.
        let mut alone = filled(&mapping, page_records, step_bytes);
        let taken = alone.take_with(0, |in_flight| {
            let payloads = in_flight.records().map(|record| record.payload().unwrap());
            (in_flight.ticket(), in_flight.len(), payloads.collect::<Vec<_>>())
        });
        let Taken::Task(Task::Run((ticket, len, payloads))) = taken else {
            panic!("a batch is ready")
        };
        prop_assert_eq!(len, payloads.len());
        prop_assert!(first.records.iter().map(|(.., payload)| payload).eq(&payloads));
        let mut now = 0;
        run_others(&mut alone, own, now);
        for _ in 0..steps {
            now = alone.next_wake().unwrap_or(now);
            prop_assert!(matches!(alone.take(now), Taken::Wait(_)));
        }
        prop_assert!(moved(&mut alone)[0] > 0, "records of the batch in flight have moved");
        let batch = alone.batch(ticket).expect("it is in flight");
        prop_assert_eq!(&read(&batch), &first);
        prop_assert_eq!(carry_on(&mut alone, batch, &answers, now), &expected[..]);
        prop_assert!(alone.batch(ticket).is_none());

        let (mut moves, batch) = engine(&mapping, page_records, step_bytes);
        let before = (read(&batch), batch.records());
        let mut now = 0;
        run_others(&mut moves, lane(&batch), now);
        for _ in 0..steps {
            now = moves.next_wake().unwrap_or(now);
            prop_assert!(matches!(moves.take(now), Taken::Wait(_)));
        }
        prop_assert!(moved(&mut moves)[0] > 0, "records of the batch in flight have moved");
        prop_assert_eq!(&read(&batch), &before.0);
        // Who has begun to read goes on with what there was.
        prop_assert_eq!(numbers(&before.1), numbers(&batch.records()));
        let held = moves.held_bytes();
        prop_assert!(moves.next_wake().is_some() || held * 2 < RECORDS as usize * 200, "{held}");
        let told = carry_on(&mut moves, batch, &answers, now);
        prop_assert_eq!(told, expected);
        prop_assert_eq!(moves.held_bytes(), 0);
    }
}

/// Whoever still has the batch reads it when its shard is gone, and its ticket is void.
#[test]
fn a_batch_that_has_moved_outlives_its_shard() {
    let mapping = MappingConfig {
        batch_size: 20,
        parallelization_factor: LANES,
        ..MappingConfig::default()
    };
    let (mut engine, batch) = engine(&mapping, 100, RELIEF_STEP_BYTES);
    let before = read(&batch);
    run_others(&mut engine, lane(&batch), 0);
    let shard = batch.ticket().shard();
    engine.remove(shard).unwrap();
    assert_eq!(read(&batch), before);
    let finished = engine.finish(batch.ticket(), Outcome::Success, None, 0);
    assert!(finished.unwrap().stale);
}

/// A lane hangs, and its relief stands where some of its batch has moved, or all of that and some of what waits. Nothing else happens then, so
/// that time alone brings the next step, which moves no more than it may.
#[test]
fn a_lane_that_is_half_moved_ends_as_one_that_stays() {
    const BATCH: u32 = 100;
    const STEP_BYTES: u64 = 1_000;
    // Each record has 60 bytes of payload, that is 80 of text, and 48 bytes beside that.
    let step_records = u32::try_from(STEP_BYTES).unwrap() / (80 + 48);
    let in_work = |[work, _]: [u32; 2]| work > BATCH / 2;
    let in_queue = |[_, queue]: [u32; 2]| queue > BATCH / 2;
    let places: [&dyn Fn([u32; 2]) -> bool; 2] = [&in_work, &in_queue];
    for half_moved in places {
        for (bisect, answers) in [
            (false, vec![Answer::Success]),
            (false, vec![Answer::Failure]),
            (
                true,
                vec![Answer::Failure, Answer::Failure, Answer::Success],
            ),
            (false, vec![Answer::Partial(700), Answer::Failure]),
            (false, vec![Answer::TooLarge, Answer::Success]),
        ] {
            let mapping = MappingConfig {
                batch_size: BATCH,
                parallelization_factor: LANES,
                bisect_batch_on_function_error: bisect,
                retry_attempts_max: Some(0),
                report_batch_item_failures: true,
                ..MappingConfig::default()
            };
            let (mut stays, batch) = engine(&mapping, 400, STEP_BYTES);
            let expected = carry_on(&mut stays, batch, &answers, 0);

            let (mut moves, batch) = engine(&mapping, 400, STEP_BYTES);
            let before = read(&batch);
            run_others(&mut moves, lane(&batch), 0);
            let (mut now, mut all) = (0, moved(&mut moves));
            while !half_moved(all) {
                let at = moves.next_wake().expect("relief goes on by itself");
                assert_eq!(at, now + 1);
                now = at;
                assert!(matches!(moves.take(now), Taken::Wait(_)));
                let [work, queue] = moved(&mut moves);
                assert!((1..=step_records).contains(&(work + queue)));
                all = [all[0] + work, all[1] + queue];
            }
            assert!(moves.next_wake().is_some(), "there is more to move");
            assert_eq!(all[0] == BATCH, all[1] > 0, "the batch goes first");
            assert_eq!(read(&batch), before);
            assert_eq!(carry_on(&mut moves, batch, &answers, now), expected);
            assert_eq!((moves.held_bytes(), moves.next_wake()), (0, None));
        }
    }
}
