//! What the core costs a record from a page that is there to its completion: intake, lanes, batches, outcomes, checkpoint.
//!
//! Each measurement offers all pages, so that so many records are buffered at once, then takes and finishes every batch. Keys are
//! Zipf-distributed over the given number of keys. Building pages and events is measured in `page`.
//!
//! `cargo bench --bench dispatch` runs the grid; the figure to read is the time divided by the records ("thrpt", elements a second).
//! `cargo bench --bench dispatch -- allocator` runs what of it, with one record a shard, is the allocator's.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use streamcore::{
    CheckpointKey, Engine, MappingConfig, MappingIdentity, Outcome, Page, PageBuilder, ShardConfig,
    Taken, Task,
};

const SEED: u64 = 0x5eed;
const PAGE_RECORDS: u64 = 1_000;

/// `SplitMix64`.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A rank with Zipf's law of exponent 1: the density of rank r is 1 / r.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "ranks are small"
    )]
    fn zipf(&mut self, keys: u64) -> u64 {
        let uniform = (self.next() >> 11) as f64 / (1_u64 << 53) as f64;
        (((keys + 1) as f64).powf(uniform) as u64).min(keys)
    }
}

fn pages(records: u64, keys: u64, page_records: u64) -> Vec<Arc<Page>> {
    let mut random = Random(SEED);
    let mut sequence = 0_u64;
    (0..records / page_records)
        .map(|_| {
            let mut builder = PageBuilder::new();
            for _ in 0..page_records {
                sequence += 1 + random.next() % 9;
                let number = format!("4959033827149025660855969253836157109592{sequence:016}");
                let key = format!("key-{}", random.zipf(keys));
                builder
                    .push(&key, &[0; 100], 1_700_000_000_000, Some(&number))
                    .expect("a record");
            }
            Arc::new(builder.finish())
        })
        .collect()
}

fn engine(lanes: u8, shards: u32) -> (Engine, Vec<u32>) {
    let mut engine = Engine::new(16 << 30);
    let mapping = MappingConfig {
        batch_size: 1_000,
        parallelization_factor: lanes,
        ..MappingConfig::default()
    };
    let handles = (0..shards).map(|shard| {
        let key = CheckpointKey {
            mapping_uuid: "14e0db71-16d6-4c24-9ca2-1f7a1a2b3c4d".into(),
            stream_identity: "1".into(),
            shard_id: format!("shardId-{shard:012}"),
        };
        let config = ShardConfig::new(key, MappingIdentity::default(), mapping.clone());
        engine.add_shard(config, None).expect("a shard")
    });
    let handles = handles.collect();
    (engine, handles)
}

/// Offers every page, to the shards in turn, then runs everything and takes the checkpoints.
fn run(engine: &mut Engine, shards: &[u32], pages: &[Arc<Page>]) {
    for (page, shard) in pages.iter().zip(shards.iter().cycle()) {
        let offered = engine
            .offer(*shard, Arc::clone(page), None, 0)
            .expect("an offer");
        assert!(offered.accepted && offered.duplicates == 0);
    }
    while let Taken::Task(task) = engine.take(0) {
        let Task::Run(batch) = task else {
            panic!("nothing is discarded")
        };
        let ticket = batch.ticket();
        drop(batch); // whoever had it is done with it
        engine
            .finish(ticket, Outcome::Success, None, 0)
            .expect("an outcome");
    }
    for (shard, snapshot) in engine.checkpoints() {
        engine.saved(shard, snapshot.version).expect("a shard");
    }
}

fn dispatch(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("dispatch");
    group.sample_size(10);
    for buffered in [1_000, 10_000, 100_000, 1_000_000] {
        for keys in [1, 1_000, 1_000_000] {
            let pages = pages(buffered, keys, PAGE_RECORDS);
            for lanes in [1, 3, 10] {
                group.throughput(Throughput::Elements(buffered));
                let id = BenchmarkId::from_parameter(format!(
                    "buffered={buffered}/keys={keys}/lanes={lanes}"
                ));
                group.bench_function(id, |bencher| {
                    bencher.iter_batched_ref(
                        || engine(lanes, 1),
                        |(engine, shards)| run(engine, shards, &pages),
                        BatchSize::PerIteration,
                    );
                });
            }
        }
    }
    // Of many shards each has its part of what is buffered, down to a page of one record.
    for buffered in [1_000, 10_000, 100_000, 1_000_000] {
        for shards in [10, 100, 1_000] {
            let page_records = PAGE_RECORDS.min(buffered / u64::from(shards));
            let pages = pages(buffered, 10_000, page_records);
            for lanes in [1, 10] {
                group.throughput(Throughput::Elements(buffered));
                let id = BenchmarkId::from_parameter(format!(
                    "buffered={buffered}/keys=10000/lanes={lanes}/shards={shards}"
                ));
                group.bench_function(id, |bencher| {
                    bencher.iter_batched_ref(
                        || engine(lanes, shards),
                        |(engine, shards)| run(engine, shards, &pages),
                        BatchSize::PerIteration,
                    );
                });
            }
        }
    }
    group.finish();
}

/// Bytes that the core asks for of each shard with one record and ten lanes: what it knows of the page, the last position taken in (with the
/// counts of its owners), and the list of marks in the snapshot.
const REQUESTS: [usize; 3] = [200, 72, 240];

/// What the allocator alone takes for 1,000 such shards: everything is asked for in turn, and given back when all of it is there.
fn allocator(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("allocator");
    group.throughput(Throughput::Elements(1_000));
    group.bench_function("shards of one record", |bencher| {
        let mut held: Vec<[Vec<u8>; REQUESTS.len()]> = Vec::with_capacity(1_000);
        bencher.iter(|| {
            for _ in 0..1_000 {
                held.push(black_box(REQUESTS).map(Vec::with_capacity));
            }
            black_box(&mut held).clear();
        });
    });
    group.finish();
}

criterion_group!(benches, dispatch, allocator);
criterion_main!(benches);
