//! streamcore core
#![forbid(unsafe_code)]

mod assemble;
mod batch;
mod buffer;
mod chance;
mod checkpoint;
mod config;
mod decode;
mod discard;
mod engine;
mod error;
mod event;
mod json;
mod lanes;
mod marks;
mod page;
mod position;
mod retry;
mod shard;
mod stats;
mod time;
mod trace;

pub use batch::{Batch, Outcome, Response, Ticket};
pub use chance::{BACKOFF_MAX_MS, BACKOFF_MIN_MS};
pub use checkpoint::{CHECKPOINT_FORMAT, Checkpoint, CheckpointError, CheckpointKey, LaneTag, Start, WindowState};
pub use config::{
    ConfigError, FETCH_RECORDS_MAX, MappingConfig, MappingIdentity, PAYLOAD_BYTES_MAX, SPAN_MAX, ShardConfig,
    StreamClock, UNCONFIRMED_DISCARDS_MAX,
};
pub use discard::{Condition, Confirmation, Discard, DiscardId};
pub use engine::{BUDGET_BYTES, Engine, Taken};
pub use error::{PageError, PositionError};
pub use event::{ENVELOPE_BYTES, EventIdentity, EventTemplate};
pub use lanes::{KeyAttribute, KeyError, KeyType, LANE_FUNCTION_VERSION, dynamodb_key_bytes, key_hash, lane};
pub use page::{
    ARRIVAL_MS_MAX, ChildShard, Format, KEY_BYTES_MAX, PAGE_BYTES_MAX, Page, PageBuilder, Record, Trailer,
};
pub use position::{Position, SEQUENCE_DIGITS_MAX, SequenceNumber};
pub use shard::{Finished, Offered, Shard, Snapshot, Task, UsageError, Want};
pub use stats::{Counters, LaneState, LaneStats, ShardState, ShardStats};
pub use trace::Event;
