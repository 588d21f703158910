//! Batch assembly by count and by bytes, order, and duplicates.

use proptest::collection::vec;
use proptest::prelude::*;
use streamcore::{
    Confirmation, ENVELOPE_BYTES, EventIdentity, EventTemplate, Format, MappingConfig, Outcome,
    Taken, Task,
};

use super::{Written, batch_numbers, engine_with, numbers, page, shard_config, written};

/// What a lane gives, cut greedily: batches, and single records that no batch can hold.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Cut {
    Batch(Vec<u64>),
    Oversized(u64),
}

/// The bytes of an event, from its text.
fn event_bytes(records: &[&Written]) -> usize {
    let config = shard_config("mapping", "shard", MappingConfig::default());
    let identity = EventIdentity {
        shard_id: config.key.shard_id.clone(),
        event_source_arn: config.identity.event_source_arn,
        invoke_identity_arn: config.identity.execution_role_arn,
        aws_region: config.identity.aws_region,
    };
    let template = EventTemplate::new(&identity, Format::Kinesis);
    let owned: Vec<Written> = records.iter().map(|record| (*record).clone()).collect();
    let page = page(&owned);
    let mut event = Vec::new();
    template.write(
        &mut event,
        (0..).take(owned.len()).map(|index| (&page, index)),
    );
    event.len()
}

fn greedy(lane: &[&Written], batch_size: usize, payload: usize) -> Vec<Cut> {
    let mut cuts = Vec::new();
    let mut rest = lane;
    while let Some(first) = rest.first() {
        let fits = (1..=batch_size.min(rest.len()))
            .take_while(|len| event_bytes(&rest[..*len]) <= payload)
            .last();
        match fits {
            None => cuts.push(Cut::Oversized(first.number)),
            Some(len) => cuts.push(Cut::Batch(
                rest[..len].iter().map(|record| record.number).collect(),
            )),
        }
        rest = &rest[fits.unwrap_or(1)..];
    }
    cuts
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Every batch is as long as `BatchSize` and the payload limit allow, to the byte, however the records came in pages.
    #[test]
    fn batches_are_cut_greedily(
        sizes in vec((0_u8..6, prop_oneof![0_usize..40, 300_usize..500, Just(1_500)]), 1..60),
        factor in 1_u8..=10,
        batch_size in 1_u32..12,
        payload in 1_000_u32..4_000,
        pages in vec(1_usize..20, 1..8),
    ) {
        let records: Vec<Written> =
            sizes.iter().zip(1..).map(|((key, bytes), number)| Written { number, key: *key, bytes: *bytes }).collect();
        let mapping = MappingConfig {
            batch_size,
            parallelization_factor: factor,
            payload_bytes_max: payload,
            retry_attempts_max: Some(0),
            ..MappingConfig::default()
        };
        let (mut engine, shard) = engine_with(mapping);
        let (mut rest, mut sizes) = (records.as_slice(), pages.iter().cycle());
        while !rest.is_empty() {
            let (head, tail) = rest.split_at(rest.len().min(*sizes.next().unwrap()));
            prop_assert!(engine.offer(shard, page(head), None, 0).unwrap().accepted);
            rest = tail;
        }
        let mut lanes: Vec<Vec<Cut>> = vec![Vec::new(); factor.into()];
        loop {
            match engine.take(0) {
                Taken::Task(Task::Run(batch)) => {
                    prop_assert_eq!(batch.json().len(), batch.json_bytes());
                    let cut = batch_numbers(&batch);
                    let lane = records[usize::try_from(cut[0]).unwrap() - 1].lane(factor);
                    lanes[lane].push(Cut::Batch(cut));
                    engine.finish(batch.ticket(), Outcome::Success, None, 0).unwrap();
                }
                Taken::Task(Task::Deliver(discard)) => {
                    let cut = numbers(discard.records());
                    prop_assert_eq!(cut.len(), 1);
                    prop_assert_eq!((discard.approximate_invoke_count(), discard.response()), (1, None));
                    let lane = records[usize::try_from(cut[0]).unwrap() - 1].lane(factor);
                    lanes[lane].push(Cut::Oversized(cut[0]));
                    engine.confirm(discard.id(), Confirmation::Delivered);
                }
                Taken::Wait(at) => {
                    prop_assert_eq!(at, None);
                    break;
                }
            }
        }
        for (lane, cuts) in lanes.iter().enumerate() {
            let own: Vec<&Written> = records.iter().filter(|record| record.lane(factor) == lane).collect();
            prop_assert_eq!(cuts, &greedy(&own, batch_size as usize, payload as usize), "lane {}", lane);
        }
        prop_assert_eq!(engine.held_bytes(), 0);
        engine.check_invariants();
    }

    /// A record is taken in if its number is above all before it. Each goes to the function once, in the order of its lane.
    #[test]
    fn duplicates_are_dropped_by_position(
        pages in vec(vec((1_u64..60, 0_u8..4), 0..12), 0..10),
        factor in 1_u8..=4,
        batch_size in 1_u32..6,
    ) {
        let mapping = MappingConfig { batch_size, parallelization_factor: factor, ..MappingConfig::default() };
        let (mut engine, shard) = engine_with(mapping);
        let (mut highest, mut kept) = (0, Vec::new());
        for records in &pages {
            let records: Vec<_> = records.iter().map(|(number, key)| Written { number: *number, key: *key, bytes: 1 }).collect();
            let before = kept.len();
            for record in &records {
                if record.number > highest {
                    highest = record.number;
                    kept.push(record.clone());
                }
            }
            let offered = engine.offer(shard, page(&records), None, 0).unwrap();
            let fresh = kept.len() - before;
            prop_assert_eq!((offered.records as usize, offered.duplicates as usize), (fresh, records.len() - fresh));
        }
        let mut given = vec![Vec::new(); factor.into()];
        while let Taken::Task(Task::Run(batch)) = engine.take(0) {
            let numbers = batch_numbers(&batch);
            let lane = kept.iter().find(|record| record.number == numbers[0]).unwrap().lane(factor);
            given[lane].extend(numbers);
            engine.finish(batch.ticket(), Outcome::Success, None, 0).unwrap();
        }
        for (lane, given) in given.iter().enumerate() {
            let own: Vec<u64> = kept.iter().filter(|record| record.lane(factor) == lane).map(|record| record.number).collect();
            prop_assert_eq!(given, &own);
        }
        prop_assert_eq!(engine.held_bytes(), 0);
    }
}

#[test]
fn the_envelope_is_what_an_event_without_records_takes() {
    assert_eq!(event_bytes(&[]), ENVELOPE_BYTES as usize);
}

/// The lane with the oldest record goes first, whatever was finished last.
#[test]
fn the_oldest_lane_goes_first() {
    let records = written(&(0..40).collect::<Vec<_>>());
    let mapping = MappingConfig {
        batch_size: 1,
        parallelization_factor: 10,
        ..MappingConfig::default()
    };
    let (mut engine, shard) = engine_with(mapping);
    engine.offer(shard, page(&records), None, 0).unwrap();
    let mut waiting: Vec<(u64, usize)> = records
        .iter()
        .map(|record| (record.number, record.lane(10)))
        .collect();
    let mut running: Vec<usize> = Vec::new();
    let mut tickets = Vec::new();
    loop {
        let free = waiting.iter().position(|(_, lane)| !running.contains(lane));
        let taken = engine.take(0);
        match (free, taken) {
            (Some(at), Taken::Task(Task::Run(batch))) => {
                let (number, lane) = waiting.remove(at);
                assert_eq!(batch_numbers(&batch), [number]);
                running.push(lane);
                tickets.push(batch.ticket());
            }
            (None, Taken::Wait(None)) if tickets.is_empty() => break,
            (None, Taken::Wait(None)) => {
                // The newest ends first.
                engine
                    .finish(tickets.pop().unwrap(), Outcome::Success, None, 0)
                    .unwrap();
                running.pop();
            }
            (free, taken) => panic!("{free:?} is next, and the engine gave {taken:?}"),
        }
    }
    assert!(waiting.is_empty());
}
