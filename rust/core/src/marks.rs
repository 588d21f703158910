//! What is complete: the mark of each lane, and the discards that hold it back. Owns invariant I2.
//!
//! A discarded record is complete for order at once, so its lane goes on; for the checkpoint it is complete when its discard is
//! confirmed. Until then the mark stays before it, and what the lane completes behind it waits in a list of segments.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::checkpoint::LaneTag;
use crate::lanes::{LANE_FUNCTION_VERSION, lane};
use crate::position::{Position, compare_sequences};
use crate::window::WindowState;

/// How far one lane is, for the checkpoint.
#[derive(Debug, Default)]
pub(crate) struct LaneMarks {
    /// The last record of the completed and confirmed prefix.
    mark: Option<Position>,
    /// The tumbling window as it was when the mark's record was complete.
    window: Option<Arc<WindowState>>,
    /// What was completed behind an unconfirmed discard, in order; empty or beginning with that discard.
    segments: VecDeque<Segment>,
}

#[derive(Debug)]
enum Segment {
    Discard {
        id: u64,
        confirmed: bool,
        first_ordinal: u64,
        /// The record before the first discarded one, None where there is none.
        before: Option<Position>,
        /// None for the closing call of a window, which has no records.
        last: Option<Position>,
        window: Option<Arc<WindowState>>,
    },
    Done {
        last: Option<Position>,
        window: Option<Arc<WindowState>>,
    },
}

impl LaneMarks {
    pub(crate) fn mark(&self) -> Option<&Position> {
        self.mark.as_ref()
    }

    /// The window that belongs to the mark.
    pub(crate) fn window(&self) -> Option<&Arc<WindowState>> {
        self.window.as_ref()
    }

    /// Records up to `last`, a sequence number and its index inside an aggregate, are complete, None where it was the closing call of a
    /// window; the window is so now. `same` gives the same position, where there is one whose text can be shared.
    pub(crate) fn complete(
        &mut self,
        last: Option<(&[u8], u32)>,
        same: impl FnOnce() -> Option<Position>,
        window: Option<Arc<WindowState>>,
    ) {
        if let Some(Segment::Discard { .. }) = self.segments.back() {
            let (last, window) = (None, None);
            self.segments.push_back(Segment::Done { last, window });
        }
        let (mark, at) = match self.segments.back_mut() {
            Some(Segment::Done { last, window }) => (last, window),
            _ => (&mut self.mark, &mut self.window),
        };
        if let Some((sequence, sub)) = last {
            Position::put(mark, sequence, sub, same);
        }
        *at = window;
    }

    /// Records up to `last`, the first of them `first_ordinal`, are discarded; ids grow. The window is so now.
    pub(crate) fn discard(
        &mut self,
        id: u64,
        first_ordinal: u64,
        before: Option<Position>,
        last: Option<Position>,
        window: Option<Arc<WindowState>>,
    ) {
        self.segments.push_back(Segment::Discard {
            id,
            confirmed: false,
            first_ordinal,
            before,
            last,
            window,
        });
    }

    /// A discard has arrived or is given up. False if this lane does not wait for it.
    pub(crate) fn confirm(&mut self, wanted: u64) -> bool {
        // Segments are few (unconfirmed discards are bounded), and a confirmation is as rare as a discard.
        let Some(confirmed) = self.segments.iter_mut().find_map(|segment| match segment {
            Segment::Discard { id, confirmed, .. } if *id == wanted && !*confirmed => {
                Some(confirmed)
            }
            _ => None,
        }) else {
            return false;
        };
        *confirmed = true;
        while let Some(
            Segment::Done { last, window }
            | Segment::Discard {
                confirmed: true,
                last,
                window,
                ..
            },
        ) = self.segments.front_mut()
        {
            self.mark = last.take().or(self.mark.take());
            self.window = window.take();
            self.segments.pop_front();
        }
        true
    }

    /// The first record that the checkpoint must not pass though its lane has: (ordinal, the record before it).
    pub(crate) fn held_back(&self) -> Option<(u64, Option<&Position>)> {
        match self.segments.front()? {
            Segment::Discard {
                first_ordinal,
                before,
                ..
            } => Some((*first_ordinal, before.as_ref())),
            Segment::Done { .. } => {
                unreachable!("a completed segment stands only behind an unconfirmed discard")
            }
        }
    }

    /// Discards that wait for their confirmation, counted anew.
    pub(crate) fn unconfirmed(&self) -> usize {
        self.segments
            .iter()
            .filter(|segment| {
                matches!(
                    segment,
                    Segment::Discard {
                        confirmed: false,
                        ..
                    }
                )
            })
            .count()
    }
}

/// The marks of lanes that no longer are: of former factors, or of the run before a restart.
///
/// A record is complete if it is at or below the mark of the lane that it would have been in.
#[derive(Debug, Default)]
pub(crate) struct FormerLanes {
    tags: Vec<LaneTag>,
}

impl FormerLanes {
    pub(crate) fn new(tags: impl IntoIterator<Item = LaneTag>) -> Self {
        let mut own = Self::default();
        own.merge(tags);
        own
    }

    pub(crate) fn push(&mut self, marks: Vec<Option<Position>>) {
        self.merge([LaneTag {
            lane_function: LANE_FUNCTION_VERSION,
            marks,
        }]);
    }

    fn merge(&mut self, tags: impl IntoIterator<Item = LaneTag>) {
        for tag in tags {
            if tag.marks.iter().any(Option::is_some) {
                merge_tag(&mut self.tags, tag);
            }
        }
    }

    /// What a checkpoint has beside the current lanes, whose marks are raised where a former factor was the same.
    pub(crate) fn beside(&self, current: &mut LaneTag) -> Vec<LaneTag> {
        let mut others = Vec::new();
        for tag in &self.tags {
            if current.is_like(tag) {
                current.raise(tag.clone());
            } else {
                others.push(tag.clone());
            }
        }
        others
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.tags.is_empty()
    }

    /// Whether a record with this key hash and position was complete under former lanes.
    pub(crate) fn has_completed(&self, key_hash: u64, sequence: &[u8], sub: u32) -> bool {
        let is_at_or_below = |mark: &Position| {
            compare_sequences(sequence, mark.sequence.as_bytes())
                .then(sub.cmp(&mark.sub))
                .is_le()
        };
        self.tags.iter().any(|tag| {
            // A tag of another lane function says nothing about keys hashed by this one: its records are handed out again.
            let factor = u8::try_from(tag.marks.len()).unwrap_or(0);
            tag.lane_function == LANE_FUNCTION_VERSION
                && factor > 0
                && tag.marks[usize::from(lane(key_hash, factor))]
                    .as_ref()
                    .is_some_and(is_at_or_below)
        })
    }

    /// The highest position that any mark names.
    pub(crate) fn highest(&self) -> Option<&Position> {
        self.tags
            .iter()
            .flat_map(|tag| tag.marks.iter().flatten())
            .max()
    }

    /// Drops the tags that the watermark has passed.
    pub(crate) fn drop_passed(&mut self, watermark: Option<&Position>) {
        self.tags.retain(|tag| {
            tag.marks
                .iter()
                .flatten()
                .any(|mark| Some(mark) > watermark)
        });
    }
}

/// Adds a tag, or raises the marks of the tag that has the same lanes: there is at most one for each factor, however often a shard is
/// restarted.
fn merge_tag(tags: &mut Vec<LaneTag>, tag: LaneTag) {
    match tags.iter_mut().find(|old| old.is_like(&tag)) {
        Some(old) => old.raise(tag),
        None => tags.push(tag),
    }
}

impl LaneTag {
    /// Whether the other one has the same lanes.
    fn is_like(&self, other: &Self) -> bool {
        self.lane_function == other.lane_function && self.marks.len() == other.marks.len()
    }

    /// Takes what is higher in another one of the same lanes.
    fn raise(&mut self, other: Self) {
        for (old, new) in self.marks.iter_mut().zip(other.marks) {
            if new > *old {
                *old = new;
            }
        }
    }
}
