//! A lane's batch in work, and what it is cut into by failures: halves, suffixes, parts of fewer bytes, ranges by age.
//!
//! A stack of ranges over the records of the batch; the top one is in flight or next. Depth first, left half first, so what is complete
//! is always a prefix. A half, a suffix and a fresh range are new batches with a budget and a request id of their own; a retry is the
//! same batch again. Owns invariants I5 and I6.

use crate::assemble::{LaneQueue, Limits};
use crate::batch::Response;
use crate::buffer::{Buffer, Run, to_usize};
use crate::runs::Runs;
use crate::window::Bounds;

/// What is to become of a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is handed to the function.
    Invoke,
    /// One record too large for an invocation, by the payload limit or by the service's word: attempts fail without the function.
    Oversized,
    /// It exceeds `MaximumRecordAgeInSeconds`: discarded without a further invocation.
    Aged,
    /// The stream no longer keeps it: passed over.
    Expired,
}

/// A batch identity: the same records, one budget, one request id.
#[derive(Debug)]
pub(crate) struct Frame {
    /// Records `start..end` of the batch in work.
    pub(crate) start: u32,
    pub(crate) end: u32,
    /// Of the closing call of a tumbling window, which has no records: the instant since which it is due.
    pub(crate) closing: Option<i64>,
    pub(crate) fate: Fate,
    /// Results that spent the budget.
    pub(crate) attempts: u32,
    /// Throttles and service errors since the last attempt; they only lengthen the pause.
    pub(crate) throttles: u32,
    /// Number of its request id.
    pub(crate) serial: u64,
    /// What the last attempt gave.
    pub(crate) response: Option<Box<Response>>,
    /// What its records and the commas between them add to the event, once that is known.
    pub(crate) bytes: Option<u32>,
}

impl Frame {
    pub(crate) fn new(start: u32, end: u32, serial: u64) -> Self {
        Self {
            start,
            end,
            closing: None,
            fate: Fate::Invoke,
            attempts: 0,
            throttles: 0,
            serial,
            response: None,
            bytes: None,
        }
    }

    pub(crate) fn len(&self) -> u32 {
        self.end - self.start
    }
}

/// The batch that a lane works on.
#[derive(Debug, Default)]
pub(crate) struct Work {
    /// The incomplete records, from `base` on.
    runs: Runs,
    /// Records of the batch that are complete.
    base: u32,
    /// Starts at `base`; None where the batch has come to its end.
    top: Option<Frame>,
    /// What is below the top frame, the lowest first; each ends where the one below it starts.
    below: Vec<Frame>,
    /// The tumbling window that all its records are in.
    pub(crate) window: Option<Bounds>,
}

impl Work {
    /// Begins with the batch that the queue's open one is. It is made where it stays: it is large, and there is one for each batch.
    pub(crate) fn begin(&mut self, queue: &mut LaneQueue, limits: &Limits, serial: u64) {
        let cut = queue.cut(limits, &mut self.runs);
        let fate = if cut.oversized {
            Fate::Oversized
        } else {
            Fate::Invoke
        };
        self.top = Some(Frame {
            fate,
            bytes: Some(cut.bytes),
            ..Frame::new(0, cut.records, serial)
        });
        self.window = cut.window;
    }

    /// The closing call of a tumbling window: a batch without records.
    pub(crate) fn closing(serial: u64, due: i64) -> Self {
        let mut work = Self::default();
        work.push_closing(serial, due);
        work
    }

    /// Puts the closing call of the window before what is left of the batch.
    pub(crate) fn push_closing(&mut self, serial: u64, due: i64) {
        self.push(Frame {
            closing: Some(due),
            ..Frame::new(self.base, self.base, serial)
        });
    }

    pub(crate) fn top(&self) -> Option<&Frame> {
        self.top.as_ref()
    }

    pub(crate) fn top_mut(&mut self) -> Option<&mut Frame> {
        self.top.as_mut()
    }

    /// Every incomplete record.
    pub(crate) fn runs(&self) -> &Runs {
        &self.runs
    }

    pub(crate) fn front(&self) -> Option<&Run> {
        self.runs.front()
    }

    /// The runs, to be changed for others that hold the same records.
    pub(crate) fn runs_mut(&mut self) -> &mut Runs {
        &mut self.runs
    }

    /// The runs of the top frame.
    pub(crate) fn top_runs(&self) -> impl Iterator<Item = Run> {
        self.first_runs(self.top().map_or(0, Frame::len))
    }

    /// The same as one run, where it is one.
    pub(crate) fn top_run(&self) -> Option<Run> {
        self.runs.prefix(self.top().map_or(0, Frame::len))
    }

    /// The runs of the first records.
    pub(crate) fn first_runs(&self, records: u32) -> impl Iterator<Item = Run> {
        self.runs.take(records)
    }

    /// The last run of the first records.
    pub(crate) fn last_of_first(&self, records: u32) -> Option<Run> {
        self.runs.last_of_first(records)
    }

    fn push(&mut self, frame: Frame) {
        self.below.extend(self.top.replace(frame));
    }

    /// Takes the top frame. Its records are to be taken with [`Self::complete`], or put into other frames.
    pub(crate) fn pop(&mut self) -> Frame {
        let frame = self.top.take().expect("a batch in work has a frame");
        self.top = self.below.pop();
        frame
    }

    /// The first `done` records of the top frame are to be taken with [`Self::complete`], the rest is a new batch.
    pub(crate) fn advance(&mut self, done: u32, serial: u64) {
        let frame = self.pop();
        self.push(Frame::new(frame.start + done, frame.end, serial));
    }

    /// Takes the first run, or its first `records`: they are complete.
    pub(crate) fn complete(&mut self, records: u32) -> Run {
        let run = self.runs.pop_front(records);
        let run = run.expect("frames lie within the batch");
        self.base += run.len();
        run
    }

    /// Cuts the top frame before its record `at`, the left part on top. Both are new batches.
    pub(crate) fn cut(&mut self, at: u32, left_serial: u64, right_serial: u64) {
        let frame = self.pop();
        let middle = frame.start + at;
        self.push(Frame::new(middle, frame.end, right_serial));
        self.push(Frame::new(frame.start, middle, left_serial));
    }

    /// Cuts the top frame into maximal ranges of one fate each, the first on top. False where the whole frame keeps its fate.
    ///
    /// A range that goes keeps the count and the response of the frame; one that stays is a new batch.
    pub(crate) fn split_by_fate(
        &mut self,
        fates: &[Fate],
        mut serial: impl FnMut() -> u64,
    ) -> bool {
        let frame = self.top().expect("a batch in work has a frame");
        debug_assert_eq!(fates.len(), to_usize(frame.len()));
        if fates.iter().all(|fate| *fate == frame.fate) {
            return false;
        }
        let frame = self.pop();
        let mut ranges: Vec<Frame> = Vec::new();
        let mut start = frame.start;
        for chunk in fates.chunk_by(|a, b| a == b) {
            let end =
                start + u32::try_from(chunk.len()).expect("a batch has at most 10,000 records");
            ranges.push(match chunk[0] {
                Fate::Invoke => Frame::new(start, end, serial()),
                fate => Frame {
                    fate,
                    attempts: frame.attempts,
                    response: frame.response.clone(),
                    ..Frame::new(start, end, frame.serial)
                },
            });
            start = end;
        }
        for range in ranges.into_iter().rev() {
            self.push(range);
        }
        true
    }

    pub(crate) fn check(&self, buffer: &Buffer) {
        let mut at = self.base;
        for frame in self.top.iter().chain(self.below.iter().rev()) {
            assert_eq!(
                frame.start, at,
                "I6: frames follow each other from the first incomplete record"
            );
            assert_eq!(
                frame.end > frame.start,
                frame.closing.is_none(),
                "I6: a frame holds a record, or is the closing call of a window"
            );
            at = frame.end;
        }
        let records: u32 = self.runs.iter().map(|run| run.len()).sum();
        assert_eq!(
            at - self.base,
            records,
            "I6: frames cover the incomplete records"
        );
        for run in &self.runs {
            assert!(
                to_usize(run.end) <= buffer.slot(run.slot).leaf.order().len(),
                "I10: a run lies within its page"
            );
        }
    }
}
