//! One ordered account of what happens to the records of a shard, for tests, logs and hooks.

use std::fmt;

use crate::discard::{Condition, Confirmation};

/// One step. Sequence numbers are text as it came; lanes count from 0.
///
/// `Display` gives one line, which the text tables of the tests compare.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "fields are named as what they hold everywhere else"
)]
pub enum Event {
    /// A page was taken in.
    Offered {
        records: u32,
        duplicates: u32,
        complete: u32,
        filtered: u32,
    },
    /// A batch was handed out.
    HandedOut {
        lane: u8,
        first: String,
        last: String,
        records: u32,
        attempt: u32,
        request_id: String,
    },
    /// A batch of a tumbling window that was not open was handed out.
    WindowOpened { start_ms: i64, end_ms: i64 },
    /// The closing call of a tumbling window was handed out.
    Closing {
        start_ms: i64,
        end_ms: i64,
        early: bool,
        attempt: u32,
        request_id: String,
    },
    /// The closing call of a tumbling window was given up.
    ClosingDiscarded {
        start_ms: i64,
        end_ms: i64,
        condition: Condition,
        invoke_count: u32,
    },
    /// A tumbling window is closed, or was ended early; its closing call is done or given up.
    WindowClosed {
        start_ms: i64,
        end_ms: i64,
        early: bool,
    },
    /// Records are complete: their function succeeded.
    Succeeded { lane: u8, records: u32 },
    /// An attempt failed as a whole.
    Failed {
        lane: u8,
        records: u32,
        attempts: u32,
    },
    /// The function did not run.
    Throttled { lane: u8, throttles: u32 },
    /// The function's service refused the event as too large; the function did not run.
    TooLarge { lane: u8, records: u32 },
    /// A record too large for an invocation was tried; the function did not see it.
    Oversized {
        lane: u8,
        sequence: String,
        attempts: u32,
    },
    /// A batch was cut: into halves, a done part and a suffix, parts of fewer bytes, or ranges by age.
    Split { lane: u8, at: u32, records: u32 },
    /// The lane waits for its next try.
    Parked { lane: u8, until: i64 },
    /// Records were given up.
    Discarded {
        lane: u8,
        condition: Condition,
        first: String,
        last: String,
        records: u32,
        invoke_count: u32,
    },
    /// Records were passed over: the stream no longer keeps them.
    Expired { lane: u8, records: u32 },
    /// A discard reached its destination or was given up.
    Confirmed { lane: u8, how: Confirmation },
    /// A snapshot was stored.
    Saved { version: u64 },
    /// Records of a stuck lane moved into a page of their own; those of its batch in flight, or others.
    Compacted {
        records: u32,
        in_flight: bool,
        bytes_before: usize,
        bytes_after: usize,
    },
    /// The source says that no further record will come.
    Closed,
    /// The shard is closed and everything in it is complete.
    Ended,
    /// The life cycle moved on.
    Paused,
    /// The life cycle moved on.
    Resumed,
    /// The life cycle moved on.
    Draining,
    /// The mapping's parameters changed.
    Updated { parallelization_factor: u8 },
}

impl Event {
    /// The line of an event of a tumbling window.
    fn fmt_window(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WindowOpened { start_ms, end_ms } => {
                write!(f, "window opened {start_ms}..{end_ms}")
            }
            Self::Closing {
                start_ms,
                end_ms,
                early,
                attempt,
                request_id,
            } => write!(
                f,
                "closing {start_ms}..{end_ms} early={early} attempt={attempt} request={request_id}"
            ),
            Self::ClosingDiscarded {
                start_ms,
                end_ms,
                condition,
                invoke_count,
            } => write!(
                f,
                "closing discarded {start_ms}..{end_ms} condition={} count={invoke_count}",
                condition.as_str()
            ),
            Self::WindowClosed {
                start_ms,
                end_ms,
                early,
            } => write!(f, "window closed {start_ms}..{end_ms} early={early}"),
            _ => unreachable!("only events of windows come here"),
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Offered {
                records,
                duplicates,
                complete,
                filtered,
            } => {
                write!(
                    f,
                    "offered records={records} duplicates={duplicates} complete={complete}"
                )?;
                if *filtered > 0 {
                    write!(f, " filtered={filtered}")?;
                }
                Ok(())
            }
            Self::HandedOut {
                lane,
                first,
                last,
                records,
                attempt,
                request_id,
            } => write!(
                f,
                "batch lane={lane} {first}..{last} records={records} attempt={attempt} request={request_id}"
            ),
            Self::WindowOpened { .. }
            | Self::Closing { .. }
            | Self::ClosingDiscarded { .. }
            | Self::WindowClosed { .. } => self.fmt_window(f),
            Self::Succeeded { lane, records } => {
                write!(f, "succeeded lane={lane} records={records}")
            }
            Self::Failed {
                lane,
                records,
                attempts,
            } => write!(
                f,
                "failed lane={lane} records={records} attempts={attempts}"
            ),
            Self::Throttled { lane, throttles } => {
                write!(f, "throttled lane={lane} throttles={throttles}")
            }
            Self::TooLarge { lane, records } => {
                write!(f, "too_large lane={lane} records={records}")
            }
            Self::Oversized {
                lane,
                sequence,
                attempts,
            } => write!(f, "oversized lane={lane} {sequence} attempts={attempts}"),
            Self::Split { lane, at, records } => {
                write!(f, "split lane={lane} at={at} records={records}")
            }
            Self::Parked { lane, until } => write!(f, "parked lane={lane} until={until}"),
            Self::Discarded {
                lane,
                condition,
                first,
                last,
                records,
                invoke_count,
            } => write!(
                f,
                "discarded lane={lane} {first}..{last} records={records} condition={} count={invoke_count}",
                condition.as_str()
            ),
            Self::Expired { lane, records } => write!(f, "expired lane={lane} records={records}"),
            Self::Confirmed { lane, how } => {
                let how = match how {
                    Confirmation::Delivered => "delivered",
                    Confirmation::GivenUp => "given_up",
                };
                write!(f, "confirmed lane={lane} {how}")
            }
            Self::Saved { version } => write!(f, "saved version={version}"),
            Self::Compacted {
                records,
                in_flight,
                bytes_before,
                bytes_after,
            } => write!(
                f,
                "compacted records={records} in_flight={in_flight} bytes={bytes_before}->{bytes_after}"
            ),
            Self::Closed => f.write_str("closed"),
            Self::Ended => f.write_str("ended"),
            Self::Paused => f.write_str("paused"),
            Self::Resumed => f.write_str("resumed"),
            Self::Draining => f.write_str("draining"),
            Self::Updated {
                parallelization_factor,
            } => {
                write!(f, "updated parallelization_factor={parallelization_factor}")
            }
        }
    }
}
