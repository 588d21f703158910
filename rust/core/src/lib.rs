//! The engine of an event source mapping: what AWS Lambda runs between a stream and a function, as a state machine without I/O.
//!
//! It takes in pages of a shard's records, keeps them in order per key, cuts batches by count, bytes and time, hands out up to ten
//! batches of a shard at once, retries, bisects and discards what fails, and says what to store so that a restart loses nothing.
//! It has no clock, no thread and no randomness: the time is an argument, so is the seed, and the same calls give the same batches.
//!
//! # 1. Make an engine and add a shard
//!
//! A mapping has Lambda's parameters; a shard has a name in the checkpoint store.
//!
//! ```
//! use streamcore::{CheckpointKey, Engine, MappingConfig, MappingIdentity, ShardConfig};
//!
//! let mapping = MappingConfig {
//!     batch_size: 2,
//!     parallelization_factor: 1,
//!     retry_attempts_max: Some(1),
//!     bisect_batch_on_function_error: true,
//!     ..MappingConfig::default()
//! };
//! let identity = MappingIdentity {
//!     event_source_arn: "arn:aws:kinesis:us-east-1:123456789012:stream/orders".into(),
//!     function_arn: "arn:aws:lambda:us-east-1:123456789012:function:bill".into(),
//!     execution_role_arn: "arn:aws:iam::123456789012:role/bill".into(),
//!     aws_region: "us-east-1".into(),
//! };
//! let key = CheckpointKey {
//!     mapping_uuid: "14e0db71-16d6-4c24-9ca2-1f7a1a2b3c4d".into(),
//!     stream_identity: "1700000000.000".into(),
//!     shard_id: "shardId-000000000000".into(),
//! };
//! let mut engine = Engine::default();
//! let shard = engine.add_shard(ShardConfig::new(key, identity, mapping), None)?;
//! # Ok::<(), streamcore::UsageError>(())
//! ```
//!
//! # 2. Feed it
//!
//! [`Engine::wants`] gives leave to fetch and says after which record. The body of a `GetRecords` answer goes in as it came from the
//! wire; [`PageBuilder`] takes records one by one. A page is taken in whole or not at all, and duplicates are dropped.
//!
//! ```
//! # use streamcore::{CheckpointKey, Engine, MappingConfig, MappingIdentity, ShardConfig};
//! # let key = CheckpointKey { mapping_uuid: "m".into(), stream_identity: "s".into(), shard_id: "shardId-0".into() };
//! # let config = ShardConfig::new(key, MappingIdentity::default(), MappingConfig::default());
//! # let mut engine = Engine::default();
//! # let shard = engine.add_shard(config, None)?;
//! use streamcore::{Format, Page};
//!
//! let now = 1_700_000_000_000; // milliseconds since the Unix epoch
//! let want = engine.wants(shard, now)?.expect("an empty shard may always fetch");
//! assert_eq!((want.after, want.limit), (None, 10_000));
//! let body = br#"{"MillisBehindLatest":0,"NextShardIterator":"AAAA","Records":[
//!     {"SequenceNumber":"7","PartitionKey":"ann","Data":"MQ==","ApproximateArrivalTimestamp":1.7E9},
//!     {"SequenceNumber":"9","PartitionKey":"bob","Data":"Mg==","ApproximateArrivalTimestamp":1.7E9}]}"#;
//! let page = Page::parse(body.to_vec(), Format::Kinesis)?;
//! assert_eq!(page.trailer().next_iterator.as_deref(), Some("AAAA"));
//! let offered = engine.offer(shard, page, Some(0), now)?;
//! assert_eq!((offered.records, offered.duplicates), (2, 0));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # 3. Take what is ready, and say how it went
//!
//! [`Engine::take`] never waits. It gives a batch to run, a discard to deliver, or the instant at which to ask again. Every batch is
//! finished with an [`Outcome`]; what the engine gives up comes back as a [`Discard`], and the checkpoint does not pass it until it is
//! confirmed.
//!
//! ```
//! # use streamcore::{CheckpointKey, Engine, MappingConfig, MappingIdentity, ShardConfig, PageBuilder};
//! # let key = CheckpointKey { mapping_uuid: "m".into(), stream_identity: "s".into(), shard_id: "shardId-0".into() };
//! # let mapping = MappingConfig { retry_attempts_max: Some(1), bisect_batch_on_function_error: true, ..MappingConfig::default() };
//! # let mut engine = Engine::default();
//! # let shard = engine.add_shard(ShardConfig::new(key, MappingIdentity::default(), mapping), None)?;
//! # let mut builder = PageBuilder::new();
//! # builder.push("ann", b"1", 0, Some("7"))?;
//! # builder.push("bob", b"2", 0, Some("9"))?;
//! # engine.offer(shard, builder.finish(), None, 0)?;
//! use streamcore::{Confirmation, Outcome, Response, Taken, Task};
//!
//! let mut now = 0;
//! let mut seen = Vec::new();
//! loop {
//!     match engine.take(now) {
//!         Taken::Task(Task::Run(batch)) => {
//!             let numbers: Vec<_> = batch.records().iter().map(|record| record.sequence().to_owned()).collect();
//!             let bad = numbers.contains(&"9".to_owned());
//!             seen.push(numbers.join(","));
//!             let outcome = if bad { Outcome::Failure(Box::default()) } else { Outcome::Success };
//!             for discard in engine.finish(batch.ticket(), outcome, None, now)?.discards {
//!                 assert_eq!(discard.approximate_invoke_count(), 2);
//!                 engine.confirm(discard.id(), Confirmation::Delivered);
//!             }
//!         }
//!         Taken::Task(Task::Deliver(discard)) => {
//!             engine.confirm(discard.id(), Confirmation::Delivered);
//!         }
//!         Taken::Wait(Some(at)) => now = at, // a real program sleeps until then, or until something else happens
//!         Taken::Wait(None) => break,
//!     }
//! }
//! // The batch fails, its halves are tried on their own, and the bad one once more: that is one retry.
//! assert_eq!(seen, ["7,9", "7", "9", "9"]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # 4. Keep the checkpoint
//!
//! A snapshot is consistent in itself and has a version; the store's confirmation names it. On the way back it goes to
//! [`Engine::add_shard`], under the same or another `ParallelizationFactor`.
//!
//! ```
//! # use streamcore::{CheckpointKey, Engine, MappingConfig, MappingIdentity, ShardConfig, PageBuilder, Outcome, Taken, Task};
//! # let key = CheckpointKey { mapping_uuid: "m".into(), stream_identity: "s".into(), shard_id: "shardId-0".into() };
//! # let config = ShardConfig::new(key, MappingIdentity::default(), MappingConfig::default());
//! # let mut engine = Engine::default();
//! # let shard = engine.add_shard(config.clone(), None)?;
//! # let mut builder = PageBuilder::new();
//! # builder.push("ann", b"1", 0, Some("7"))?;
//! # engine.offer(shard, builder.finish(), None, 0)?;
//! # let Taken::Task(Task::Run(batch)) = engine.take(0) else { panic!() };
//! # engine.finish(batch.ticket(), Outcome::Success, None, 0)?;
//! use streamcore::Checkpoint;
//!
//! let snapshot = engine.checkpoint(shard)?.expect("something has changed");
//! let stored: Vec<u8> = snapshot.checkpoint.encode();
//! engine.saved(shard, snapshot.version)?;
//! assert!(engine.checkpoint(shard)?.is_none());
//!
//! let mut restarted = Engine::default();
//! let shard = restarted.add_shard(config, Some(Checkpoint::decode(&stored)?))?;
//! let want = restarted.wants(shard, 0)?.expect("an empty shard may always fetch");
//! assert_eq!(want.after.unwrap().sequence.as_str(), "7");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # 5. Stop, change, go on
//!
//! [`Engine::pause`] hands out nothing more, [`Engine::drain`] finishes what is held, [`Engine::update`] changes the parameters once
//! nothing is in flight, [`Engine::close`] says that a shard has ended, [`Engine::remove`] takes it out; a ticket of a shard that is
//! gone is reported as stale and changes nothing. [`Engine::drain_trace`] is one ordered account of it all, and
//! [`Engine::check_invariants`] counts everything anew; debug builds do so after every step.
//!
//! # 6. Tumbling windows
//!
//! With [`MappingConfig::tumbling_window_ms`] every batch is of one window, and [`Batch::window`] has the state that the batch before
//! returned. [`Engine::finish`] takes the next one ([`ReturnedState`]), bytes that the engine does not look into, and keeps it in the
//! checkpoint with the records that made it. A window ends with a batch without records, its closing call, which is retried and given
//! up as every other.
//!
//! The invariants, I1 to I13, are numbered in DESIGN.md; each module says which it owns.
#![forbid(unsafe_code)]

mod assemble;
mod batch;
mod buffer;
mod chance;
mod checkpoint;
mod codec;
mod config;
mod decode;
mod discard;
mod distribution;
mod engine;
mod error;
mod event;
mod filter;
mod json;
mod lanes;
mod marks;
mod page;
mod position;
mod records;
mod retry;
mod runs;
mod shard;
mod stats;
mod time;
mod trace;
mod window;

pub use batch::{Batch, Outcome, Response, Ticket};
pub use chance::{BACKOFF_MAX_MS, BACKOFF_MIN_MS};
pub use checkpoint::{
    CHECKPOINT_FORMAT, Checkpoint, CheckpointError, CheckpointKey, LaneTag, Start,
};
pub use config::{
    Attachment, ConfigError, FETCH_RECORDS_MAX, MappingConfig, MappingIdentity, PAYLOAD_BYTES_MAX,
    RELIEF_STEP_BYTES, SPAN_MAX, ShardConfig, StreamClock, UNCONFIRMED_DISCARDS_MAX,
    UNCONFIRMED_DISCARDS_WINDOW_MAX, WINDOW_GRACE_MS,
};
pub use discard::{Condition, Confirmation, Discard, DiscardId};
pub use distribution::{BUCKETS, Distribution, Extremes};
pub use engine::{BUDGET_BYTES, Engine, Taken};
pub use error::{PageError, PositionError, UsageError};
pub use event::{ENVELOPE_BYTES, EventIdentity, EventTemplate, Sink};
pub use filter::{FilterCriteria, FilterError, PATTERN_CHARACTERS_MAX, Sieve, Sifted};
pub use lanes::{
    KeyAttribute, KeyError, KeyType, LANE_FUNCTION_VERSION, dynamodb_key_bytes, key_hash, lane,
};
pub use page::{
    ARRIVAL_MS_MAX, ChildShard, Deaggregated, Format, KEY_BYTES_MAX, PAGE_BYTES_MAX, Page,
    PageBuilder, Record, RecordBytes, Trailer,
};
pub use position::{Position, SEQUENCE_DIGITS_MAX, SequenceNumber};
pub use records::Records;
pub use shard::{Finished, InFlight, Offered, Snapshot, Task, Want};
pub use stats::{
    Age, Counters, Distributions, LaneState, LaneStats, ShardState, ShardStats, WindowStats,
};
pub use trace::Event;
pub use window::{ReturnedState, Window, WindowPhase, WindowState};
