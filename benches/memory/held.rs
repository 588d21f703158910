//! What a shard's buffer takes, as the allocator counts it. Shared by the benchmark `memory` and the test `memory`.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::Duration;

use streamcore::{
    Batch, CheckpointKey, Engine, Format, MappingConfig, MappingIdentity, Outcome, Page,
    PageBuilder, ShardConfig, Taken, Task, key_hash, lane,
};

/// The system's allocator, which counts what is asked of it and not given back, for each thread by itself.
#[derive(Debug)]
pub(crate) struct Counting;

thread_local! {
    static ALLOCATED: Cell<isize> = const { Cell::new(0) };
}

fn count(bytes: usize, sign: isize) {
    let bytes = isize::try_from(bytes).expect("no allocation is larger");
    ALLOCATED.set(ALLOCATED.get() + sign * bytes);
}

// SAFETY: every call goes to the system's allocator as it came; counting allocates nothing and touches no memory of the caller.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 1);
        // SAFETY: the caller keeps the rules of `alloc`, which are the system's too.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        count(layout.size(), -1);
        // SAFETY: as above; `memory` came from the system's allocator.
        unsafe { System.dealloc(memory, layout) }
    }
}

/// What this thread has allocated and not freed.
fn allocated() -> isize {
    ALLOCATED.get()
}

/// A wait of so little is none.
const AT_ONCE_MS: i64 = 10;

/// In which form the records come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// The bodies of `GetRecords` answers.
    Body,
    /// Records handed over one by one.
    Records,
}

/// Why a lane is stuck.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stuck {
    /// Its function does not answer.
    InFlight,
    /// Its function fails again and again.
    Retried,
    /// Its function has answered with a failure at last.
    Failed,
}

/// What is held.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Held {
    /// What the allocator has counted.
    pub(crate) bytes: usize,
    /// Bytes of the bodies, or, behind a stuck lane, of the text of the records that are alive: key, sequence number, data.
    pub(crate) text_bytes: usize,
    /// The records alive.
    pub(crate) records: usize,
}

impl Held {
    /// What is held for a byte of text, 48 bytes a record left out.
    #[expect(clippy::cast_precision_loss, reason = "it is a ratio to be read")]
    pub(crate) fn ratio(&self) -> f64 {
        (self.bytes as f64 - 48.0 * self.records as f64) / self.text_bytes as f64
    }
}

/// What a scenario is about.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scenario {
    pub(crate) form: Form,
    pub(crate) records: u64,
    pub(crate) page_records: u64,
    pub(crate) payload_bytes: usize,
    pub(crate) lanes: u8,
    /// How many of them are stuck.
    pub(crate) stuck_lanes: u8,
    pub(crate) batch_size: u32,
    /// So many pages are there before the first batch is handed out, and before each time that all are.
    pub(crate) pages_ahead: u64,
}

fn key(number: u64) -> String {
    // Keys come in an order without a pattern, and every lane has some.
    format!("key-{}", number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 54)
}

fn sequence(number: u64) -> String {
    format!("4959033827149025660855969253836157109592{number:016}")
}

impl Scenario {
    fn engine(&self) -> (Engine, u32) {
        let mut engine = Engine::new(16 << 30);
        let mapping = MappingConfig {
            batch_size: self.batch_size,
            parallelization_factor: self.lanes,
            ..MappingConfig::default()
        };
        let key = CheckpointKey {
            mapping_uuid: "14e0db71-16d6-4c24-9ca2-1f7a1a2b3c4d".into(),
            stream_identity: "1".into(),
            shard_id: "shardId-000000000000".into(),
        };
        let config = ShardConfig::new(key, MappingIdentity::default(), mapping);
        let shard = engine.add_shard(config, None).expect("a shard");
        (engine, shard)
    }

    /// The number of the first record of each page.
    fn pages(&self) -> impl Iterator<Item = u64> {
        (0..self.records / self.page_records).map(|page| page * self.page_records)
    }

    /// The page of the records from `first` on, and how many bytes came for it.
    fn page(&self, first: u64) -> (Page, usize) {
        let mut builder = PageBuilder::new();
        let payload = vec![b'7'; self.payload_bytes];
        for number in first..first + self.page_records {
            builder
                .push(
                    &key(number),
                    &payload,
                    1_700_000_000_123,
                    Some(&sequence(number)),
                )
                .expect("a record");
        }
        let page = builder.finish();
        if self.form == Form::Records {
            let bytes = page.records().map(|record| text_bytes(&record)).sum();
            return (page, bytes);
        }
        let records: Vec<String> = page.records().map(|record| {
            format!(
                r#"{{"SequenceNumber":"{}","ApproximateArrivalTimestamp":1.700000000123E9,"Data":"{}","PartitionKey":"{}"}}"#,
                record.sequence(), record.data_base64(), record.key()
            )
        }).collect();
        let body = format!(
            r#"{{"Records":[{}],"MillisBehindLatest":0}}"#,
            records.join(",")
        );
        // As it comes from the wire, without room for more.
        let body = body.into_boxed_str().into_boxed_bytes();
        let bytes = body.len();
        let page = Page::parse(body, Format::Kinesis).expect("a body");
        (page, bytes)
    }

    /// A buffer of whole pages.
    pub(crate) fn full(&self) -> Held {
        let (mut engine, shard) = self.engine();
        let before = allocated();
        let mut text_bytes = 0;
        for first in self.pages() {
            let (page, bytes) = self.page(first);
            text_bytes += bytes;
            let offered = engine.offer(shard, page, None, 0).expect("an offer");
            assert!(offered.accepted && offered.duplicates == 0);
        }
        held(&mut engine, shard, before, text_bytes)
    }

    /// A buffer in which some lanes are stuck with their first batches, so many records were read behind these, and the other lanes are
    /// done. What the engine is to be asked again for at once has happened too. Says by `clock` how long each call of the engine took, in
    /// which others have to wait for it.
    pub(crate) fn behind(
        &self,
        stuck: Stuck,
        clock: impl Fn() -> Duration,
    ) -> (Held, Vec<Duration>) {
        let (mut engine, shard) = self.engine();
        let before = allocated();
        let lane_of = |number| lane(key_hash(key(number).as_bytes()), self.lanes);
        let first_stuck = lane_of(0);
        let is_stuck = |lane| (lane + self.lanes - first_stuck) % self.lanes < self.stuck_lanes;
        let (mut now, mut text_bytes) = (0, 0);
        let mut steps = Vec::new();
        let mut step_since = |began: Duration| steps.push(clock().saturating_sub(began));
        let mut in_flight: Vec<Batch> = Vec::new();
        for (first, page_number) in self.pages().zip(1..) {
            let (page, _) = self.page(first);
            let own = (first..).zip(page.records());
            let own = own.filter(|(number, _)| is_stuck(lane_of(*number)));
            text_bytes += own
                .map(|(_, record)| self::text_bytes(&record))
                .sum::<usize>();
            let began = clock();
            engine.offer(shard, page, None, now).expect("an offer");
            step_since(began);
            if page_number % self.pages_ahead > 0 {
                continue;
            }
            // The pause of a stuck lane is over now and then.
            now += 1_000;
            loop {
                let began = clock();
                let taken = engine.take(now);
                step_since(began);
                let batch = match taken {
                    Taken::Task(Task::Run(batch)) => batch,
                    Taken::Task(Task::Deliver(_)) => panic!("nothing is given up"),
                    Taken::Wait(Some(at)) if at <= now + AT_ONCE_MS => {
                        now = at;
                        continue;
                    }
                    Taken::Wait(_) => break,
                };
                let records = batch.records();
                let first = records.first().expect("a batch has a record");
                let batch_lane = lane(first.key_hash(), self.lanes);
                drop(records);
                let outcome = match stuck {
                    _ if !is_stuck(batch_lane) => Outcome::Success,
                    Stuck::Retried => Outcome::Failure(Box::default()),
                    Stuck::InFlight | Stuck::Failed => {
                        in_flight.push(batch);
                        continue;
                    }
                };
                let began = clock();
                engine
                    .finish(batch.ticket(), outcome, None, now)
                    .expect("an outcome");
                step_since(began);
            }
        }
        let hanging = if stuck == Stuck::Retried {
            0
        } else {
            usize::from(self.stuck_lanes)
        };
        assert_eq!(in_flight.len(), hanging);
        if stuck == Stuck::Failed {
            for batch in in_flight.drain(..) {
                let outcome = Outcome::Failure(Box::default());
                engine
                    .finish(batch.ticket(), outcome, None, now)
                    .expect("an outcome");
            }
            while let Taken::Wait(Some(at)) = engine.take(now)
                && at <= now + AT_ONCE_MS
            {
                now = at;
            }
        }
        // The list of times is not the engine's.
        let of_times = steps.capacity() * size_of::<Duration>();
        let before = before + isize::try_from(of_times).expect("no allocation is larger");
        let held = held(&mut engine, shard, before, text_bytes);
        (held, steps)
    }
}

fn held(engine: &mut Engine, shard: u32, before: isize, text_bytes: usize) -> Held {
    let bytes = usize::try_from(allocated() - before).expect("something is held");
    let records = engine.stats(shard).expect("a shard").held_records;
    Held {
        bytes,
        text_bytes,
        records: usize::try_from(records).expect("they fit into memory"),
    }
}

fn text_bytes(record: &streamcore::Record<'_>) -> usize {
    record.key_json().len() + record.sequence().len() + record.data_base64().len()
}
