//! What a shard tells of itself.

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
    /// Invocations that were the second or a later attempt of their batch.
    pub retries: u64,
    /// Invocations that did not run: throttles, errors of the service, events refused as too large.
    pub throttles: u64,
    /// Tumbling windows closed, those included whose closing call was given up.
    pub windows_closed: u64,
    /// Times that a tumbling window was ended early because of its state.
    pub windows_ended_early: u64,
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
    /// What was counted.
    pub counters: Counters,
    /// The lanes.
    pub lanes: Vec<LaneStats>,
}
