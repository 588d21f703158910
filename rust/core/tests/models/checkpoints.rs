//! Checkpoints against a set of completed records, and their stored form against damage (I1, I2, I12).

use std::collections::BTreeSet;
use std::sync::Arc;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::Index;
use streamcore::{
    Batch, Checkpoint, CheckpointError, CheckpointKey, Confirmation, DiscardId, Engine, LaneTag,
    MappingConfig, Outcome, Position, SequenceNumber, Start, Taken, Task, WindowPhase, WindowState,
};

use super::{Written, batch_numbers, numbers, page, shard_config, written};

#[derive(Debug, Clone)]
enum Op {
    Offer(usize),
    Take,
    Finish(Index, How),
    Confirm(Index),
    Pass(i64),
    Update(u8),
    Save,
    Restart(u8),
}

#[derive(Debug, Clone, Copy)]
enum How {
    Success,
    Failure,
    Partial(u32),
    Throttle,
    TooLarge,
}

fn op() -> impl Strategy<Value = Op> {
    let how = prop_oneof![
        4 => Just(How::Success),
        2 => Just(How::Failure),
        2 => (0_u32..4).prop_map(How::Partial),
        1 => Just(How::Throttle),
        1 => Just(How::TooLarge),
    ];
    prop_oneof![
        3 => (1_usize..10).prop_map(Op::Offer),
        8 => Just(Op::Take),
        8 => (any::<Index>(), how).prop_map(|(index, how)| Op::Finish(index, how)),
        2 => any::<Index>().prop_map(Op::Confirm),
        2 => (0_i64..100_000).prop_map(Op::Pass),
        1 => (1_u8..=10).prop_map(Op::Update),
        2 => Just(Op::Save),
        1 => (1_u8..=10).prop_map(Op::Restart),
    ]
}

/// The engine beside plain sets. Lanes are lists; what a checkpoint knows is the complete front of each.
struct World {
    log: Vec<Written>,
    mapping: MappingConfig,
    engine: Engine,
    shard: u32,
    now: i64,
    /// Records of the log that were offered in this run.
    offered: usize,
    lanes: Vec<Vec<u64>>,
    done: BTreeSet<u64>,
    unconfirmed: Vec<(DiscardId, Vec<u64>)>,
    running: Vec<Batch>,
    known: BTreeSet<u64>,
    saved: Option<(Vec<u8>, BTreeSet<u64>)>,
}

impl World {
    fn new(log: Vec<Written>, mapping: MappingConfig) -> Self {
        let mut world = Self {
            log,
            mapping,
            engine: Engine::default(),
            shard: 0,
            now: 0,
            offered: 0,
            lanes: Vec::new(),
            done: BTreeSet::new(),
            unconfirmed: Vec::new(),
            running: Vec::new(),
            known: BTreeSet::new(),
            saved: None,
        };
        world.begin();
        world
    }

    fn begin(&mut self) {
        let (blob, known) = self.saved.clone().unzip();
        let checkpoint = blob.map(|blob| Checkpoint::decode(&blob).unwrap());
        self.engine = Engine::default();
        let config = shard_config("mapping", "shard", self.mapping.clone());
        self.shard = self.engine.add_shard(config, checkpoint).unwrap();
        self.known = known.unwrap_or_default();
        self.lanes = vec![Vec::new(); self.mapping.parallelization_factor.into()];
        self.done.clear();
        self.unconfirmed.clear();
        self.running.clear();
        let after = self
            .engine
            .wants(self.shard, self.now)
            .unwrap()
            .unwrap()
            .after;
        let after = after.map_or(0, |position| position.sequence.as_str().parse().unwrap());
        self.offered = self
            .log
            .iter()
            .filter(|record| record.number <= after)
            .count();
        for record in &self.log[..self.offered] {
            assert!(
                self.known.contains(&record.number),
                "a checkpoint passes {}, which is not complete",
                record.number
            );
        }
    }

    fn is_pending(&self, number: u64) -> bool {
        !self.done.contains(&number)
            || self
                .unconfirmed
                .iter()
                .any(|(_, records)| records.contains(&number))
    }

    fn learn(&mut self) {
        for lane in &self.lanes {
            let front: Vec<u64> = lane
                .iter()
                .copied()
                .take_while(|number| !self.is_pending(*number))
                .collect();
            self.known.extend(front);
        }
    }

    fn step(&mut self, op: &Op) {
        match op {
            Op::Offer(records) => self.offer(*records),
            Op::Take => self.take(),
            Op::Finish(index, how) if !self.running.is_empty() => {
                let batch = self.running.swap_remove(index.index(self.running.len()));
                self.finish(&batch, *how);
            }
            Op::Confirm(index) if !self.unconfirmed.is_empty() => {
                let (id, _) = self
                    .unconfirmed
                    .swap_remove(index.index(self.unconfirmed.len()));
                assert!(self.engine.confirm(id, Confirmation::Delivered));
                self.learn();
            }
            Op::Pass(ms) => self.now += ms,
            Op::Update(factor) => self.update(*factor),
            Op::Save => {
                if let Some(snapshot) = self.engine.checkpoint(self.shard).unwrap() {
                    self.saved = Some((snapshot.checkpoint.encode(), self.known.clone()));
                    self.engine.saved(self.shard, snapshot.version).unwrap();
                }
            }
            Op::Restart(factor) => {
                self.mapping.parallelization_factor = *factor;
                self.begin();
            }
            Op::Finish(..) | Op::Confirm(_) => {}
        }
        self.engine.check_invariants();
    }

    fn offer(&mut self, records: usize) {
        let until = self.log.len().min(self.offered + records);
        let fresh = &self.log[self.offered..until];
        let offered = self
            .engine
            .offer(self.shard, page(fresh), None, self.now)
            .unwrap();
        let complete = fresh
            .iter()
            .filter(|record| self.known.contains(&record.number))
            .count();
        assert_eq!(
            (offered.records as usize, offered.complete as usize),
            (fresh.len(), complete)
        );
        for record in fresh
            .iter()
            .filter(|record| !self.known.contains(&record.number))
        {
            self.lanes[record.lane(self.mapping.parallelization_factor)].push(record.number);
        }
        self.offered = until;
    }

    fn take(&mut self) {
        match self.engine.take(self.now) {
            Taken::Task(Task::Run(batch)) => {
                let numbers = batch_numbers(&batch);
                let key = &self
                    .log
                    .iter()
                    .find(|record| record.number == numbers[0])
                    .unwrap();
                let lane = &self.lanes[key.lane(self.mapping.parallelization_factor)];
                let next = lane
                    .iter()
                    .copied()
                    .filter(|number| !self.done.contains(number));
                assert_eq!(
                    numbers,
                    next.take(numbers.len()).collect::<Vec<_>>(),
                    "the first incomplete records of a lane"
                );
                self.running.push(batch);
            }
            // A record refused as too large is given up when its attempts are spent.
            Taken::Task(Task::Deliver(discard)) => {
                let numbers = numbers(discard.records());
                self.done.extend(&numbers);
                self.unconfirmed.push((discard.id(), numbers));
                self.learn();
            }
            Taken::Wait(_) => {}
        }
    }

    fn finish(&mut self, batch: &Batch, how: How) {
        let numbers_of = batch_numbers(batch);
        let response = Box::default();
        let last = u32::try_from(numbers_of.len()).unwrap() - 1;
        let (outcome, done) = match how {
            How::Success => (Outcome::Success, numbers_of.len()),
            How::Failure => (Outcome::Failure(response), 0),
            How::Throttle => (Outcome::Throttled, 0),
            How::TooLarge => (Outcome::TooLarge { request_id: None }, 0),
            How::Partial(index) => {
                let index = index.min(last);
                (Outcome::Partial { index, response }, index as usize)
            }
        };
        let finished = self
            .engine
            .finish(batch.ticket(), outcome, None, self.now)
            .unwrap();
        self.done.extend(&numbers_of[..done]);
        for discard in finished.discards {
            let numbers = numbers(discard.records());
            self.done.extend(&numbers);
            self.unconfirmed.push((discard.id(), numbers));
        }
        self.learn();
    }

    /// Drains nothing: an update is refused while something runs or is not confirmed.
    fn update(&mut self, factor: u8) {
        let mapping = MappingConfig {
            parallelization_factor: factor,
            ..self.mapping.clone()
        };
        let busy = !self.running.is_empty() || !self.unconfirmed.is_empty();
        assert_eq!(
            self.engine
                .update(self.shard, mapping.clone(), self.now)
                .is_err(),
            busy
        );
        if busy {
            return;
        }
        self.mapping = mapping;
        let mut rest: Vec<u64> = self
            .lanes
            .iter()
            .flatten()
            .copied()
            .filter(|number| !self.done.contains(number))
            .collect();
        rest.sort_unstable();
        self.lanes = vec![Vec::new(); factor.into()];
        for number in rest {
            let record = &self.log[usize::try_from(number).unwrap() - 1];
            self.lanes[record.lane(factor)].push(number);
        }
    }

    /// A restart at this moment hands out what is not known, and nothing else.
    fn check_restart(&mut self, factor: u8) {
        let snapshot = self.engine.checkpoint(self.shard).unwrap();
        let blob = match (snapshot, &self.saved) {
            (Some(snapshot), _) => snapshot.checkpoint.encode(),
            (None, Some((blob, _))) => blob.clone(),
            (None, None) => panic!("a fresh shard has something to save"),
        };
        let mapping = MappingConfig {
            parallelization_factor: factor,
            ..MappingConfig::default()
        };
        let mut engine = Engine::default();
        let config = shard_config("mapping", "shard", mapping);
        let shard = engine
            .add_shard(config, Some(Checkpoint::decode(&blob).unwrap()))
            .unwrap();
        engine.offer(shard, page(&self.log), None, 0).unwrap();
        let mut again = BTreeSet::new();
        while let Taken::Task(Task::Run(batch)) = engine.take(0) {
            again.extend(batch_numbers(&batch));
            engine
                .finish(batch.ticket(), Outcome::Success, None, 0)
                .unwrap();
        }
        let rest: BTreeSet<u64> = self
            .log
            .iter()
            .map(|record| record.number)
            .filter(|number| !self.known.contains(number))
            .collect();
        assert_eq!(again, rest);
        assert_eq!(engine.held_bytes(), 0);
    }
}

fn position() -> impl Strategy<Value = Position> {
    ("[0-9]{1,129}", any::<u32>()).prop_map(|(digits, sub)| Position {
        sequence: SequenceNumber::parse(&digits).unwrap(),
        sub,
    })
}

fn checkpoint() -> impl Strategy<Value = Checkpoint> {
    let start = prop_oneof![
        Just(Start::TrimHorizon),
        any::<i64>().prop_map(Start::Latest),
        any::<i64>().prop_map(Start::AtTimestamp)
    ];
    let tag =
        (any::<u16>(), vec(option::of(position()), 0..11)).prop_map(|(lane_function, marks)| {
            LaneTag {
                lane_function,
                marks,
            }
        });
    let phase = prop_oneof![
        Just(WindowPhase::Open),
        Just(WindowPhase::EndsEarly),
        Just(WindowPhase::Restarted),
        Just(WindowPhase::Closed)
    ];
    let window = (any::<i64>(), any::<i64>(), phase, vec(any::<u8>(), 0..50)).prop_map(
        |(start_ms, end_ms, phase, state)| WindowState {
            start_ms,
            end_ms,
            phase,
            state,
        },
    );
    let key = (any::<String>(), any::<String>(), any::<String>()).prop_map(
        |(mapping_uuid, stream_identity, shard_id)| CheckpointKey {
            mapping_uuid,
            stream_identity,
            shard_id,
        },
    );
    (
        key,
        start,
        option::of(position()),
        vec(tag, 0..4),
        option::of(window),
        any::<bool>(),
    )
        .prop_map(|(key, start, watermark, tags, window, ended)| {
            let mut tags = tags.into_iter();
            Checkpoint {
                key: key.into(),
                start,
                watermark,
                lanes: tags.next(),
                former: tags.collect(),
                window: window.map(Arc::new),
                ended,
            }
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_restart_hands_out_exactly_what_the_checkpoint_does_not_know(
        keys in vec(0_u8..12, 1..60),
        ops in vec(op(), 1..120),
        factor in 1_u8..=10,
        batch_size in 1_u32..6,
        retries in option::of(0_u32..3),
        bisect in any::<bool>(),
        restored in 1_u8..=10,
    ) {
        let mapping = MappingConfig {
            batch_size,
            parallelization_factor: factor,
            retry_attempts_max: retries,
            bisect_batch_on_function_error: bisect,
            ..MappingConfig::default()
        };
        let mut world = World::new(written(&keys), mapping);
        for op in &ops {
            world.step(op);
        }
        world.check_restart(world.mapping.parallelization_factor);
        world.check_restart(restored);
    }

    #[test]
    fn the_stored_form_comes_back(checkpoint in checkpoint()) {
        prop_assert_eq!(Checkpoint::decode(&checkpoint.encode()).unwrap(), checkpoint);
    }

    #[test]
    fn a_flipped_byte_or_a_missing_end_is_an_error(checkpoint in checkpoint(), at in any::<Index>(), flip in 1_u8..) {
        let blob = checkpoint.encode();
        let at = at.index(blob.len());
        let mut damaged = blob.clone();
        damaged[at] ^= flip;
        prop_assert!(Checkpoint::decode(&damaged).is_err());
        let longer: Vec<u8> = blob.iter().copied().chain([flip]).collect();
        prop_assert!(Checkpoint::decode(&longer).is_err());
        let error = Checkpoint::decode(&blob[..at]).unwrap_err();
        prop_assert!(matches!(error, CheckpointError::NotOurs | CheckpointError::Damaged { .. }), "{}", error);
    }

    /// Damage that the checksum does not show: an error or another checkpoint, and never a panic.
    #[test]
    fn damage_under_a_good_checksum_does_not_panic(checkpoint in checkpoint(), flips in vec((any::<Index>(), any::<u8>()), 1..4)) {
        let mut blob = checkpoint.encode();
        let content = blob.len() - 8;
        for (at, flip) in flips {
            blob[10..content][at.index(content - 10)] ^= flip;
        }
        let checksum = xxhash_rust::xxh3::xxh3_64(&blob[..content]);
        blob[content..].copy_from_slice(&checksum.to_le_bytes());
        if let Ok(decoded) = Checkpoint::decode(&blob) {
            let mut config = shard_config("mapping", "shard", MappingConfig::default());
            config.key = decoded.key.clone();
            let mut engine = Engine::default();
            if let Ok(shard) = engine.add_shard(config, Some(decoded)) {
                let _ = engine.offer(shard, page(&written(&[1, 2, 3])), None, 0);
                engine.check_invariants();
            }
        }
    }
}
