//! A batch in flight, and what a function's answer means for it.

use std::any::Any;
use std::sync::Arc;

use crate::buffer::to_usize;
use crate::chance::RequestId;
use crate::config::{Attachment, ShardConfig};
use crate::event::{ENVELOPE_BYTES, EventTemplate, Sink};
use crate::records::{Records, SharedRecords};
use crate::window::{Bounds, Window};

/// What a batch, its event and its discard have in common with all others of the shard.
#[derive(Debug)]
pub(crate) struct ShardInfo {
    pub(crate) shard: u32,
    pub(crate) config: ShardConfig,
    pub(crate) template: EventTemplate,
}

/// Names a batch in flight. It is void once the batch is finished or its shard is gone.
///
/// A number of 64 bits: the shard's handle (24), the lane (4), and a serial number of the shard (36, going round after 68 billion).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(u64);

const SERIAL_BITS: u32 = 36;
const LANE_BITS: u32 = 4;
/// The highest handle that a shard can have.
pub(crate) const HANDLE_MAX: u32 = (1 << (64 - SERIAL_BITS - LANE_BITS)) - 1;

impl Ticket {
    pub(crate) fn new(shard: u32, lane: u8, serial: u64) -> Self {
        let place = u64::from(shard) << LANE_BITS | u64::from(lane);
        Self(place << SERIAL_BITS | serial & ((1 << SERIAL_BITS) - 1))
    }

    /// The ticket as a number, to carry it elsewhere.
    #[must_use]
    pub fn to_u64(self) -> u64 {
        self.0
    }

    /// The ticket of a number made by [`Self::to_u64`]. A number made up names no batch.
    #[must_use]
    pub fn from_u64(number: u64) -> Self {
        Self(number)
    }

    /// The handle of its shard.
    #[must_use]
    pub fn shard(self) -> u32 {
        u32::try_from(self.0 >> (SERIAL_BITS + LANE_BITS)).unwrap_or(u32::MAX)
    }

    pub(crate) fn lane(self) -> u8 {
        u8::try_from(self.0 >> SERIAL_BITS & ((1 << LANE_BITS) - 1)).unwrap_or(u8::MAX)
    }

    pub(crate) fn serial(self) -> u64 {
        self.0 & ((1 << SERIAL_BITS) - 1)
    }
}

/// What a function's service said of an attempt; it goes into the `responseContext` of a discard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// HTTP status of the invocation.
    pub status_code: u16,
    /// The version that ran.
    pub executed_version: Option<String>,
    /// "Unhandled" where the function raised; None where it answered.
    pub function_error: Option<String>,
    /// The service's own id of the attempt; None where the engine's holds.
    pub request_id: Option<String>,
}

impl Default for Response {
    /// An answer of `$LATEST` with status 200.
    fn default() -> Self {
        Self {
            status_code: 200,
            executed_version: Some("$LATEST".to_owned()),
            function_error: None,
            request_id: None,
        }
    }
}

/// What an answer means for the records of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// All are complete.
    Success,
    /// The function ran and all have failed. Spends an attempt.
    Failure(Box<Response>),
    /// Those before `index` are complete, those from it on have failed.
    Partial {
        /// Index in the batch of the first record that failed.
        index: u32,
        /// What the function's service said.
        response: Box<Response>,
    },
    /// The function did not run: a throttle or an error of the service. Spends nothing.
    Throttled,
    /// The function did not run: its service refused the event as too large. The batch is cut by bytes, and what was refused is never
    /// sent again. Of one record alone it is an attempt, and the record goes the way of one that is above the payload limit.
    TooLarge {
        /// The service's own id of the attempt; None where the engine's holds.
        request_id: Option<String>,
    },
}

/// The most bytes of state that a closing call of this window can hold.
pub(crate) fn state_bytes_max(info: &ShardInfo, start_ms: i64, end_ms: i64) -> usize {
    let bounds = Bounds { start_ms, end_ms };
    let around = to_usize(ENVELOPE_BYTES) + info.template.window_bytes(bounds, &[]);
    to_usize(info.config.mapping.payload_bytes_max).saturating_sub(around)
}

/// The size of an event without records; with a window it may be a few bytes more than is written.
pub(crate) fn around_bytes(template: &EventTemplate, window: Option<&Window>) -> usize {
    let window = window.map_or(0, |window| {
        let bounds = Bounds {
            start_ms: window.start_ms(),
            end_ms: window.end_ms(),
        };
        template.window_bytes(bounds, window.state())
    });
    to_usize(ENVELOPE_BYTES) + window
}

/// A batch to run: records of one lane, in order. The closing call of a tumbling window is a batch without records.
///
/// A copy is the same batch. It shares the pages of its records with the shard; building its event changes nothing and can be done on
/// any thread. While it is in flight for long, the shard may move its records to other pages, see [`Self::records`].
#[derive(Debug, Clone)]
pub struct Batch(pub(crate) Arc<Parts>);

/// What the copies of a batch share, one of which its lane keeps while it is in flight and somebody has asked for it.
#[derive(Debug)]
pub(crate) struct Parts {
    info: Arc<ShardInfo>,
    call: Call,
    pub(crate) records: SharedRecords,
    window: Option<Window>,
}

/// Which call of the function a batch is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call {
    pub(crate) ticket: Ticket,
    pub(crate) request_id: RequestId,
    pub(crate) attempt: u32,
    pub(crate) len: u32,
}

impl Batch {
    pub(crate) fn new(
        info: Arc<ShardInfo>,
        call: Call,
        records: Records,
        window: Option<Window>,
    ) -> Self {
        Self(Arc::new(Parts {
            info,
            call,
            records: SharedRecords::new(records),
            window,
        }))
    }

    /// What is left of a batch that is finished, to make another one without asking for memory. None where somebody still has the batch.
    /// It keeps no page.
    pub(crate) fn into_spare(mut self) -> Option<Self> {
        let parts = Arc::get_mut(&mut self.0)?;
        parts.records.set(Records::default());
        parts.window = None;
        Some(self)
    }

    /// Another batch, of any shard, in the place of a spare one.
    pub(crate) fn again(
        mut self,
        info: &Arc<ShardInfo>,
        call: Call,
        records: Records,
        window: Option<Window>,
    ) -> Self {
        let parts = Arc::get_mut(&mut self.0).expect("nobody else has a spare batch");
        if !Arc::ptr_eq(&parts.info, info) {
            parts.info = Arc::clone(info);
        }
        parts.call = call;
        parts.records.set(records);
        parts.window = window;
        self
    }

    /// What [`Engine::finish`](crate::Engine::finish) takes.
    #[must_use]
    pub fn ticket(&self) -> Ticket {
        self.0.call.ticket
    }

    /// The id of this batch: the same for a retry of the same records, another for a half or a suffix.
    #[must_use]
    pub fn request_id(&self) -> String {
        self.0.call.request_id.text()
    }

    /// 1 for the first time; what did not run does not count.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.0.call.attempt
    }

    /// The shard, its mapping and the names in its events.
    #[must_use]
    pub fn config(&self) -> &ShardConfig {
        &self.0.info.config
    }

    /// What was attached to the shard, if it is of this type.
    ///
    /// ```
    /// # use streamcore::{CheckpointKey, Engine, MappingConfig, MappingIdentity, PageBuilder, Taken, Task};
    /// use streamcore::{Attachment, ShardConfig};
    ///
    /// # let key = CheckpointKey { mapping_uuid: "m".into(), stream_identity: "s".into(), shard_id: "shardId-0".into() };
    /// # let (identity, mapping) = (MappingIdentity::default(), MappingConfig::default());
    /// let config = ShardConfig {
    ///     attachment: Some(Attachment::new("orders")),
    ///     ..ShardConfig::new(key, identity, mapping)
    /// };
    /// # let mut engine = Engine::default();
    /// # let shard = engine.add_shard(config, None)?;
    /// # let mut builder = PageBuilder::new();
    /// # builder.push("ann", b"1", 0, Some("7"))?;
    /// # engine.offer(shard, builder.finish(), None, 0)?;
    /// # let Taken::Task(Task::Run(batch)) = engine.take(0) else { panic!("a batch is ready") };
    /// assert_eq!(batch.attachment::<&str>(), Some(&"orders"));
    /// assert_eq!(batch.attachment::<u64>(), None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn attachment<T: Any>(&self) -> Option<&T> {
        let attachment = self.0.info.config.attachment.as_ref();
        attachment.and_then(Attachment::get)
    }

    /// The constant parts of the shard's events.
    #[must_use]
    pub fn template(&self) -> &EventTemplate {
        &self.0.info.template
    }

    /// How many records it has: at least one, but for the closing call of a tumbling window.
    #[must_use]
    pub fn len(&self) -> usize {
        to_usize(self.0.call.len)
    }

    /// Whether it has no records: it is the closing call of a tumbling window.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.call.len == 0
    }

    /// The tumbling window that its records are in, or that it closes; None for a mapping without one.
    #[must_use]
    pub fn window(&self) -> Option<&Window> {
        self.0.window.as_ref()
    }

    /// The most bytes of window state that can be handed on: more would not fit into the closing call. 0 without a window.
    #[must_use]
    pub fn state_bytes_max(&self) -> usize {
        self.0.window.as_ref().map_or(0, |window| {
            state_bytes_max(&self.0.info, window.start_ms(), window.end_ms())
        })
    }

    /// The records in order, in the pages where they are now.
    ///
    /// While it lives it keeps whole pages in memory, so it is for the time of reading; ask again for the next time. What is read is always the
    /// same, wherever the records are.
    ///
    /// ```
    /// # use streamcore::{CheckpointKey, Engine, MappingConfig, MappingIdentity, PageBuilder, ShardConfig, Taken, Task};
    /// # let key = CheckpointKey { mapping_uuid: "m".into(), stream_identity: "s".into(), shard_id: "shardId-0".into() };
    /// # let mut engine = Engine::default();
    /// # let config = ShardConfig::new(key, MappingIdentity::default(), MappingConfig::default());
    /// # let shard = engine.add_shard(config, None)?;
    /// # let mut builder = PageBuilder::new();
    /// # builder.push("ann", b"1", 0, Some("7"))?;
    /// # builder.push("bob", b"2", 0, Some("9"))?;
    /// # engine.offer(shard, builder.finish(), None, 0)?;
    /// let Taken::Task(Task::Run(batch)) = engine.take(0) else { panic!("a batch is ready") };
    /// for record in batch.records().iter() {
    ///     assert!(["7", "9"].contains(&record.sequence()));
    /// }
    /// let records = batch.records();
    /// let last = records.last().expect("a batch has a record");
    /// assert_eq!((last.sequence(), &*last.key()), ("9", "bob"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn records(&self) -> Records {
        self.0.records.get()
    }

    /// The index of the record with this sequence number, compared as text.
    ///
    /// Of records with equal numbers (inside an aggregate) it is the first.
    #[must_use]
    pub fn index_of(&self, sequence_number: &str) -> Option<usize> {
        self.records()
            .iter()
            .position(|record| record.as_bytes().sequence == sequence_number.as_bytes())
    }

    /// How many bytes [`Self::write_json`] writes; with a tumbling window up to two fewer are written.
    #[must_use]
    pub fn json_bytes(&self) -> usize {
        self.records()
            .event_bytes(&self.0.info.template, self.0.window.as_ref())
    }

    /// Appends the Lambda event as JSON.
    pub fn write_json(&self, out: &mut impl Sink) {
        self.records()
            .write_event(&self.0.info.template, self.0.window.as_ref(), out);
    }

    /// The Lambda event as JSON.
    #[must_use]
    pub fn json(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.json_bytes());
        self.write_json(&mut out);
        out
    }
}
