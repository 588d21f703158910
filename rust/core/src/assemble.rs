//! The waiting records of one lane, and where the next batch of them ends. Owns the size half of invariant I4.
//!
//! Each record is looked at once: the end of the open batch moves on as records come, and stops where a record would be one too many
//! for `BatchSize` or the payload limit. Cutting the batch then takes whole runs.

use crate::buffer::{Buffer, Run, to_usize};
use crate::event::{ENVELOPE_BYTES, bounds_bytes};
use crate::runs::Runs;
use crate::window::{Boundary, Bounds, EMPTY_STATE};

/// What closes a batch by size.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) batch_size: u32,
    pub(crate) payload_bytes_max: u32,
    /// Bytes that each record adds whatever it holds, without the comma.
    pub(crate) record_bytes: u32,
    /// Where tumbling windows end; None where there are none.
    pub(crate) boundary: Option<Boundary>,
}

/// What a batch that was cut from the queue is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cut {
    pub(crate) records: u32,
    /// One record that alone is larger than the payload limit.
    pub(crate) oversized: bool,
    /// What its records and the commas between them add to the event.
    pub(crate) bytes: u32,
    /// The tumbling window that its records are in.
    pub(crate) window: Option<Bounds>,
}

/// The records of a lane that are in no batch yet.
#[derive(Debug, Default)]
pub(crate) struct LaneQueue {
    runs: Runs,
    open: Open,
}

/// The open batch: the records before the scan's place.
#[derive(Debug, Default, Clone, Copy)]
struct Open {
    /// Whole runs in it.
    runs: usize,
    /// Records of the next run in it.
    part: u32,
    records: u32,
    bytes: u32,
    /// Of them those of the event without records.
    envelope: u32,
    full: bool,
    oversized: bool,
    window: Option<Bounds>,
}

impl Open {
    /// Begins with a record of this arrival time: its window, and the bytes of an event without records.
    fn begin(&mut self, boundary: &Boundary, arrival_ms: i64) {
        let (window, is_current) = boundary.window_of(arrival_ms);
        self.window = Some(window);
        self.envelope = ENVELOPE_BYTES
            + if is_current {
                boundary.current_bytes
            } else {
                // A new window begins without a state.
                let state = u32::try_from(EMPTY_STATE.len()).unwrap_or_default();
                boundary.constant_bytes + bounds_bytes(window) + state
            };
        self.bytes = self.envelope;
    }

    /// Takes what waits of a run, as far as the batch size goes, where all of that fits, as it mostly does. No record is looked at by itself.
    fn take_all(&mut self, waiting: &[u32], limits: &Limits) -> bool {
        let room = to_usize(limits.batch_size - self.records);
        let sizes = &waiting[..waiting.len().min(room)];
        let records = u32::try_from(sizes.len()).unwrap_or(u32::MAX);
        let own: u64 = sizes.iter().copied().map(u64::from).sum();
        // There is a comma before each, but before the first of the batch.
        let around = u64::from(records) * u64::from(limits.record_bytes + 1);
        let after = u64::from(self.bytes) + own + around - u64::from(self.records == 0);
        match u32::try_from(after) {
            Ok(after) if after <= limits.payload_bytes_max => {
                self.bytes = after;
                self.records += records;
                self.full = self.records == limits.batch_size;
                true
            }
            _ => false,
        }
    }

    /// The scan moves on in a run by so many records.
    fn pass(&mut self, records: u32, run: Run) {
        self.part += records;
        if self.part == run.len() {
            self.runs += 1;
            self.part = 0;
        }
    }
}

impl LaneQueue {
    pub(crate) fn runs(&self) -> &Runs {
        &self.runs
    }

    pub(crate) fn front(&self) -> Option<&Run> {
        self.runs.front()
    }

    /// Adds a run that is not empty.
    pub(crate) fn push(&mut self, run: Run) {
        self.runs.push_back(run);
    }

    /// Moves the end of the open batch over the records that have come. True if no further record may join it.
    pub(crate) fn fill(&mut self, buffer: &Buffer, limits: &Limits) -> bool {
        let mut open = self.open;
        if open.records == 0 && limits.boundary.is_none() {
            open.envelope = ENVELOPE_BYTES;
            open.bytes = ENVELOPE_BYTES;
        }
        while !open.full
            && let Some(run) = self.runs.get(open.runs)
        {
            let leaf = &buffer.slot(run.slot).leaf;
            let waiting = to_usize(run.start + open.part)..to_usize(run.end);
            let before = open.records;
            if limits.boundary.is_none() && open.take_all(&leaf.sizes()[waiting.clone()], limits) {
                open.pass(open.records - before, run);
                continue;
            }
            for (at, size) in waiting.clone().zip(&leaf.sizes()[waiting]) {
                if let Some(boundary) = &limits.boundary {
                    let arrival_ms = leaf.page.arrival_ms(to_usize(leaf.order()[at]));
                    if open.records == 0 {
                        open.begin(boundary, arrival_ms);
                    } else if open
                        .window
                        .is_some_and(|window| arrival_ms >= window.end_ms)
                    {
                        open.full = true;
                        break;
                    }
                }
                let bytes = limits.record_bytes + size;
                let comma = u32::from(open.records > 0);
                let after = open.bytes.saturating_add(bytes).saturating_add(comma);
                if after > limits.payload_bytes_max {
                    open.full = true;
                    open.oversized = open.records == 0;
                    open.records += u32::from(open.oversized);
                    break;
                }
                open.bytes = after;
                open.records += 1;
                if open.records == limits.batch_size {
                    open.full = true;
                    break;
                }
            }
            open.pass(open.records - before, run);
        }
        self.open = open;
        open.full
    }

    /// Moves the open batch, which must hold a record, to `runs`. Call [`Self::fill`] with the same limits first.
    pub(crate) fn cut(&mut self, limits: &Limits, runs: &mut Runs) -> Cut {
        let open = &self.open;
        assert!(open.records > 0, "a batch holds a record");
        let cut = Cut {
            records: open.records,
            oversized: open.oversized,
            bytes: open.bytes - open.envelope,
            window: limits.boundary.and(open.window),
        };
        self.open = Open::default();
        let mut left = cut.records;
        while let Some(run) = self.runs.pop_front(left) {
            runs.push_back(run);
            left -= run.len();
            if left == 0 {
                break;
            }
        }
        cut
    }

    /// The runs, to be changed for others that hold the same records. What is open is looked at anew.
    pub(crate) fn runs_mut(&mut self) -> &mut Runs {
        self.open = Open::default();
        &mut self.runs
    }
}
