//! What a shard tells of itself.

use crate::distribution::Distribution;
use crate::position::Position;
use crate::window::WindowPhase;

/// The life of a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShardState {
    /// It fetches and hands out.
    Running,
    /// It does neither; batches in flight finish.
    Paused,
    /// It fetches nothing and hands out what it holds without waiting for batching windows.
    Draining,
    /// It was draining, and everything is complete and confirmed.
    Drained,
    /// It is closed, and everything in it is complete and confirmed.
    Ended,
}

/// What a lane does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LaneState {
    /// It has no records.
    Empty,
    /// Its batch is open until this instant, or until it is full. Without records: its tumbling window is closed then.
    Waiting(i64),
    /// It has a batch that may run.
    Ready,
    /// A batch runs, with this ticket serial.
    InFlight(u64),
    /// A batch failed and is tried again at this instant.
    Parked(i64),
}

/// Counts since the shard was added.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Records taken in.
    pub records: u64,
    /// Records dropped because their position had been taken in before.
    pub duplicates: u64,
    /// Records that the restored checkpoint knew as complete.
    pub already_complete: u64,
    /// Records that no filter let pass.
    pub filtered: u64,
    /// Records whose function succeeded.
    pub succeeded: u64,
    /// Records given up.
    pub discarded: u64,
    /// Discards made of them.
    pub discards: u64,
    /// Records that the stream no longer kept.
    pub expired: u64,
    /// Results of invocations; what did not run is not counted.
    pub invocations: u64,
    /// Invocations that failed in part or as a whole.
    pub failed_invocations: u64,
    /// Records of every call that was no full success: it failed in part or as a whole, or did not run. Each call counts them again.
    pub failed_records: u64,
    /// Invocations that were the second or a later attempt of their batch.
    pub retries: u64,
    /// Invocations that did not run: throttles, errors of the service, events refused as too large.
    pub throttles: u64,
    /// Tumbling windows closed, those included whose closing call was given up.
    pub windows_closed: u64,
    /// Times that a tumbling window was ended early because of its state.
    pub windows_ended_early: u64,
}

/// What was counted once for each batch since the shard was added. Time is counted in milliseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Distributions {
    /// Records of each batch handed out; their sum is the records that were sent, each time anew.
    pub batch_records: Distribution,
    /// Bytes of the event of each batch handed out, as JSON.
    pub event_bytes: Distribution,
    /// Time from handing a batch out to its outcome.
    pub handler_ms: Distribution,
    /// Age of a batch's last record when the batch was handed out, by the clock of the stream.
    pub iterator_ages_sent_ms: Distribution,
    /// The same when its outcome came.
    pub iterator_ages_ms: Distribution,
}

/// An age, and when it was that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Age {
    /// The age in milliseconds, by the clock of the stream.
    pub ms: i64,
    /// When, in milliseconds since the epoch, as the caller told the time.
    pub at_ms: i64,
}

impl Age {
    /// An age at this instant. One below 0 is 0, where clocks differ.
    pub(crate) fn at(age_ms: i64, now: i64) -> Self {
        Self {
            ms: age_ms.max(0),
            at_ms: now,
        }
    }
}

/// The tumbling window of a shard, at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowStats {
    /// First instant of the window, in milliseconds since the epoch.
    pub start_ms: i64,
    /// First instant after it.
    pub end_ms: i64,
    /// How far it is.
    pub phase: WindowPhase,
    /// Bytes of its state.
    pub state_bytes: usize,
    /// Its closing call is due, running, or tried again.
    pub closing: bool,
}

/// One lane, at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaneStats {
    /// What it does.
    pub state: LaneState,
    /// Incomplete records in it.
    pub records: u64,
    /// Attempts that its batch has had.
    pub attempts: u32,
    /// Sequence number of its first incomplete record.
    pub first_sequence_number: Option<String>,
}

/// One shard, at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardStats {
    /// Where it is in its life.
    pub state: ShardState,
    /// Records taken in and not complete.
    pub held_records: u64,
    /// Bytes of the pages it holds, and of unconfirmed discards.
    pub held_bytes: usize,
    /// Records from the lowest incomplete one to the last taken in.
    pub span: u64,
    /// Batches in flight.
    pub in_flight: usize,
    /// Discards that wait for their confirmation.
    pub unconfirmed_discards: usize,
    /// Every record at or below it is complete.
    pub watermark: Option<Position>,
    /// The last record taken in.
    pub last_taken_in: Option<Position>,
    /// What the source last said of its distance to the tip.
    pub millis_behind: Option<i64>,
    /// The last tumbling window, closed ones included.
    pub window: Option<WindowStats>,
    /// Something is done that no saved checkpoint has.
    pub unsaved: bool,
    /// Age of the last record of the batch that was handed out last.
    pub sent: Option<Age>,
    /// Age of the last record of the batch whose outcome came last.
    pub finished: Option<Age>,
    /// What was counted.
    pub counters: Counters,
    /// What was counted by size.
    pub distributions: Distributions,
    /// The lanes.
    pub lanes: Vec<LaneStats>,
}
