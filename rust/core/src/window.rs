//! Tumbling windows: where they begin and end, which one a record is in, and what a shard keeps of them.
//!
//! From the Lambda developer guide, "Using tumbling windows": windows follow each other without gaps, and the arrival time of a record
//! decides in which it is. Here they begin at multiples of their size since the Unix epoch. The state is bytes that the core keeps and
//! hands on; what is in them, and when a window must end early, is for the caller to say. Owns invariant I7.

use std::sync::Arc;

use crate::time::iso_seconds;

/// The state with which a window begins.
pub(crate) const EMPTY_STATE: &[u8] = b"{}";

/// How far a window is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WindowPhase {
    /// The function has seen records of it.
    Open,
    /// The function has ended it early; its closing call is next.
    EndsEarly,
    /// It was ended early, and its closing call is done. It goes on with a fresh state if another record of it comes.
    Restarted,
    /// Its closing call is done. Records that come late are in a later window.
    Closed,
}

/// The last tumbling window of a shard, as a checkpoint keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WindowState {
    /// First instant of the window, in milliseconds since the epoch.
    pub start_ms: i64,
    /// First instant after it.
    pub end_ms: i64,
    /// How far it is.
    pub phase: WindowPhase,
    /// What the function returned last, opaque to the core; empty once the window is closed.
    pub state: Vec<u8>,
}

/// What a function of a mapping with a tumbling window returned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReturnedState {
    /// The state, JSON, as the next event of the window will hold it.
    pub state: Vec<u8>,
    /// The state is too large to go on: the window ends now, with a closing call, and begins again without it.
    pub ends_window: bool,
}

/// The tumbling window of a batch, as its event tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    pub(crate) at: Arc<WindowState>,
    pub(crate) is_final: bool,
}

impl Window {
    /// First instant of the window, in milliseconds since the epoch.
    #[must_use]
    pub fn start_ms(&self) -> i64 {
        self.at.start_ms
    }

    /// First instant after it.
    #[must_use]
    pub fn end_ms(&self) -> i64 {
        self.at.end_ms
    }

    /// [`Self::start_ms`] as the event has it, as `2020-07-30T17:00:00Z`.
    #[must_use]
    pub fn start_text(&self) -> String {
        iso_seconds(self.at.start_ms)
    }

    /// [`Self::end_ms`] as the event has it.
    #[must_use]
    pub fn end_text(&self) -> String {
        iso_seconds(self.at.end_ms)
    }

    /// The state that the event holds, JSON.
    #[must_use]
    pub fn state(&self) -> &[u8] {
        &self.at.state
    }

    /// Whether this is the closing call, which has no records.
    #[must_use]
    pub fn is_final(&self) -> bool {
        self.is_final
    }

    /// Whether the function has ended the window before its time.
    #[must_use]
    pub fn is_terminated_early(&self) -> bool {
        self.at.phase == WindowPhase::EndsEarly
    }
}

/// First instant of a window and first instant after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub(crate) start_ms: i64,
    pub(crate) end_ms: i64,
}

impl Bounds {
    /// The window of this size that an instant is in; instants before the epoch have windows too.
    pub(crate) fn of(instant_ms: i64, size_ms: i64) -> Self {
        let start_ms = instant_ms.div_euclid(size_ms).saturating_mul(size_ms);
        Self {
            start_ms,
            end_ms: start_ms.saturating_add(size_ms),
        }
    }
}

/// Where the next batch must end, as far as windows say.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Boundary {
    pub(crate) size_ms: i64,
    /// The window that goes on if the next record arrived before its end.
    pub(crate) current: Option<Bounds>,
    /// The end of the last window that is closed: a record that arrived earlier is late, and taken for one of this instant.
    pub(crate) floor_ms: i64,
    /// Bytes that `current` adds to an event.
    pub(crate) current_bytes: u32,
    /// Bytes that any window adds to an event beside its bounds and its state.
    pub(crate) constant_bytes: u32,
}

impl Boundary {
    /// The window of a batch that begins with a record of this arrival time, and whether it is `current`.
    pub(crate) fn window_of(&self, arrival_ms: i64) -> (Bounds, bool) {
        match self.current {
            Some(current) if arrival_ms < current.end_ms => (current, true),
            _ => (
                Bounds::of(arrival_ms.max(self.floor_ms), self.size_ms),
                false,
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_multiples_of_their_size_before_the_epoch_too() {
        for (instant, size, start) in [
            (0, 10, 0),
            (9, 10, 0),
            (10, 10, 10),
            (-1, 10, -10),
            (-10, 10, -10),
            (-11, 10, -20),
            (1_596_128_699_999, 300_000, 1_596_128_400_000),
        ] {
            let bounds = Bounds::of(instant, size);
            assert_eq!((bounds.start_ms, bounds.end_ms), (start, start + size));
        }
    }
}
