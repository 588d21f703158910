//! What a mapping and a shard are told: Lambda's parameters in the core's units, and the names that events carry.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use crate::checkpoint::{CheckpointKey, Start};
use crate::filter::FilterCriteria;
use crate::page::Format;

/// The largest payload of an invocation: Invoke answers that a request "must be smaller than 6291456 bytes".
pub const PAYLOAD_BYTES_MAX: u32 = 6_291_455;
/// Records between the lowest incomplete one and the last taken in, at the most.
pub const SPAN_MAX: u64 = 1 << 20;
/// Discards of one shard that may wait for their confirmation before the shard hands out nothing more.
pub const UNCONFIRMED_DISCARDS_MAX: usize = 1_000;
/// The same for a shard with a tumbling window, which keeps the state that belongs to each of them.
pub const UNCONFIRMED_DISCARDS_WINDOW_MAX: usize = 100;
/// How long a source must say that it is at its tip before a window that has ended is closed, by default.
pub const WINDOW_GRACE_MS: i64 = 120_000;
/// The default of [`ShardConfig::relief_step_bytes`].
pub const RELIEF_STEP_BYTES: u64 = 512 << 10;
/// The most records that one fetch asks for, as Kinesis allows.
pub const FETCH_RECORDS_MAX: u32 = 10_000;

/// Lambda's parameters of an event source mapping, as the core uses them.
///
/// ```
/// use streamcore::MappingConfig;
///
/// let config = MappingConfig { batch_size: 500, parallelization_factor: 10, ..MappingConfig::default() };
/// assert!(config.validate().is_ok());
/// let wrong = MappingConfig { parallelization_factor: 11, ..config };
/// assert_eq!(wrong.validate().unwrap_err().to_string(), "parallelization_factor is 11, and must be 1 to 10");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MappingConfig {
    /// `BatchSize`, 1 to 10,000.
    pub batch_size: u32,
    /// `MaximumBatchingWindowInSeconds` in milliseconds, 0 to 300,000.
    pub batching_window_ms: i64,
    /// `ParallelizationFactor`, 1 to 10: the number of lanes.
    pub parallelization_factor: u8,
    /// `MaximumRetryAttempts`, 0 to 10,000; None for -1, without end.
    pub retry_attempts_max: Option<u32>,
    /// `MaximumRecordAgeInSeconds` in milliseconds, 60,000 to 604,800,000; None for -1, without end.
    pub record_age_max_ms: Option<i64>,
    /// `BisectBatchOnFunctionError`.
    pub bisect_batch_on_function_error: bool,
    /// Whether `FunctionResponseTypes` holds `ReportBatchItemFailures`.
    pub report_batch_item_failures: bool,
    /// `FilterCriteria`; None for every record.
    pub filter: Option<Arc<FilterCriteria>>,
    /// `TumblingWindowInSeconds` in milliseconds, 0 to 900,000; 0 for none. With a window there is one lane.
    pub tumbling_window_ms: i64,
    /// The largest event in bytes; [`PAYLOAD_BYTES_MAX`] on AWS.
    pub payload_bytes_max: u32,
}

impl Default for MappingConfig {
    /// Lambda's defaults.
    fn default() -> Self {
        Self {
            batch_size: 100,
            batching_window_ms: 0,
            parallelization_factor: 1,
            retry_attempts_max: None,
            record_age_max_ms: None,
            bisect_batch_on_function_error: false,
            report_batch_item_failures: false,
            filter: None,
            tumbling_window_ms: 0,
            payload_bytes_max: PAYLOAD_BYTES_MAX,
        }
    }
}

/// A parameter outside its range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{parameter} is {value}, and must be {range}")]
pub struct ConfigError {
    /// The parameter's name.
    pub parameter: &'static str,
    /// Its value.
    pub value: i64,
    /// What is allowed.
    pub range: &'static str,
}

impl MappingConfig {
    /// Checks every parameter against Lambda's ranges.
    ///
    /// # Errors
    ///
    /// The first parameter that is outside its range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let check = |parameter, value: i64, ok: bool, range| {
            if ok {
                Ok(())
            } else {
                Err(ConfigError {
                    parameter,
                    value,
                    range,
                })
            }
        };
        let (size, factor) = (self.batch_size, self.parallelization_factor);
        check(
            "batch_size",
            size.into(),
            (1..=10_000).contains(&size),
            "1 to 10000",
        )?;
        check(
            "parallelization_factor",
            factor.into(),
            (1..=10).contains(&factor),
            "1 to 10",
        )?;
        let window = self.batching_window_ms;
        check(
            "batching_window_ms",
            window,
            (0..=300_000).contains(&window),
            "0 to 300000",
        )?;
        let retries = self.retry_attempts_max.unwrap_or(0);
        check(
            "retry_attempts_max",
            retries.into(),
            retries <= 10_000,
            "0 to 10000, or none",
        )?;
        if let Some(age) = self.record_age_max_ms {
            let ok = (60_000..=604_800_000).contains(&age);
            check("record_age_max_ms", age, ok, "60000 to 604800000, or none")?;
        }
        let window = self.tumbling_window_ms;
        check(
            "tumbling_window_ms",
            window,
            (0..=900_000).contains(&window),
            "0 to 900000",
        )?;
        check(
            "parallelization_factor",
            factor.into(),
            window == 0 || factor == 1,
            "1 with a tumbling window",
        )?;
        let payload = self.payload_bytes_max;
        let ok = (1_000..=PAYLOAD_BYTES_MAX).contains(&payload);
        check("payload_bytes_max", payload.into(), ok, "1000 to 6291455")
    }
}

/// What time is, for record age and retention.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StreamClock {
    /// The caller's `now`.
    #[default]
    Wall,
    /// The largest arrival time handed out so far: recorded data is as old as it was when it was new.
    Replay,
}

/// The names that events, discards and messages carry.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MappingIdentity {
    /// ARN of the stream (or of the consumer, with enhanced fan-out).
    pub event_source_arn: String,
    /// ARN of the function, with its qualifier.
    pub function_arn: String,
    /// ARN of the execution role.
    pub execution_role_arn: String,
    /// Region of the stream.
    pub aws_region: String,
}

/// Something of the caller's that goes with a shard and comes back with its batches, such as what events are made of.
#[derive(Clone)]
pub struct Attachment(Arc<dyn Any + Send + Sync>);

impl Attachment {
    /// Wraps a value. To copy the attachment does not copy it.
    pub fn new(value: impl Any + Send + Sync) -> Self {
        Self(Arc::new(value))
    }

    /// The value, if it is of this type.
    #[must_use]
    pub fn get<T: Any>(&self) -> Option<&T> {
        self.0.downcast_ref()
    }
}

impl fmt::Debug for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Attachment")
    }
}

/// Everything about one shard that does not change while it is read.
#[derive(Debug, Clone)]
pub struct ShardConfig {
    /// The shard's place in the checkpoint store.
    pub key: Arc<CheckpointKey>,
    /// The names in events.
    pub identity: MappingIdentity,
    /// The mapping's parameters.
    pub mapping: MappingConfig,
    /// Which API's records the shard has.
    pub format: Format,
    /// Where a shard without a checkpoint begins.
    pub start: Start,
    /// How long the stream keeps a record; None for ever.
    pub retention_ms: Option<i64>,
    /// What time is for record age and retention.
    pub clock: StreamClock,
    /// How long a source must say without a break that it is at its tip before a tumbling window that has ended is closed, in
    /// milliseconds, counted from the window's end or from when its last record was taken in. Recorded data never idles.
    pub window_grace_ms: i64,
    /// Hand out nothing between a completion and the saving of its checkpoint.
    pub sync_checkpoints: bool,
    /// About how much of the shard's records behind lanes that hang or fail moves to other pages in one call: bytes of text, and 48 for each
    /// record; one record at least. A call that goes over several shards, as [`Engine::take`](crate::Engine::take) does, makes a step of each.
    pub relief_step_bytes: u64,
    /// Seed of request ids and jitter.
    pub seed: u64,
    /// What the caller wants to find again at each batch, see [`Batch::attachment`](crate::Batch::attachment).
    pub attachment: Option<Attachment>,
}

impl ShardConfig {
    /// A shard with Lambda's defaults, no retention, and the wall clock.
    #[must_use]
    pub fn new(
        key: impl Into<Arc<CheckpointKey>>,
        identity: MappingIdentity,
        mapping: MappingConfig,
    ) -> Self {
        Self {
            key: key.into(),
            identity,
            mapping,
            format: Format::Kinesis,
            start: Start::TrimHorizon,
            retention_ms: None,
            clock: StreamClock::Wall,
            window_grace_ms: WINDOW_GRACE_MS,
            sync_checkpoints: false,
            relief_step_bytes: RELIEF_STEP_BYTES,
            seed: 0,
            attachment: None,
        }
    }
}
