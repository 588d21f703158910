//! Relief: the records of stuck lanes move out of pages that nothing else keeps, step by step.
//!
//! A pass goes over the log, oldest record first, and takes the records of all stuck lanes with it, so that a page is freed as soon as its
//! records have moved. Each step goes from one ordinal to another. Where it ends within a page, the page stays until the next step.

use std::ops::Range;

use super::{Buffer, LaneSet, Leaf, RECORD_BYTES, Run, Slot, SlotId, to_u32};
use crate::runs::Runs;

/// Relief of fewer bytes would save less than it costs to think about.
const RELIEF_BYTES_MIN: u64 = 16 * 1024;
/// Relief comes when this part of what is held could go, so that what it costs is a few steps for each record completed.
const RELIEF_PART: u64 = 16;
/// A page is sparse when this part of it is complete.
const SPARSE_PART: u64 = 8;
/// Pages smaller than this are put together.
const SMALL_BYTES: u64 = 4 * 1024;
/// What looking at a run costs, beside the bytes that move.
const LOOK_BYTES: u64 = 64;

/// What the move of some records did to the bytes held.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moved {
    pub(crate) records: u32,
    pub(crate) bytes_before: usize,
    pub(crate) bytes_after: usize,
}

impl Leaf {
    /// How many records of a run weigh at most `room`, and what is left of that.
    fn fitting(&self, run: Run, mut room: u64) -> (u32, u64) {
        let fitting = self.sizes()[run.range()].iter().take_while(|size| {
            let left = room.checked_sub(u64::from(**size) + RECORD_BYTES);
            room = left.unwrap_or(room);
            left.is_some()
        });
        (to_u32(fitting.count()), room)
    }
}

impl Slot {
    fn is_sparse(&self) -> bool {
        self.dead * SPARSE_PART >= self.weight
    }

    fn is_small(&self) -> bool {
        self.weight < SMALL_BYTES
    }
}

impl Buffer {
    /// Whether so much is complete of the pages held that it may be worth to ask which lanes are stuck, or relief is under way.
    pub(crate) fn may_need_relief(&self) -> bool {
        self.is_relieving() || self.dead >= self.relief_bytes()
    }

    /// Whether a pass has begun that has not come to its end.
    pub(crate) fn is_relieving(&self) -> bool {
        self.relieving.is_some()
    }

    /// Whether a lane was stuck when it was last said.
    pub(crate) fn has_stuck(&self) -> bool {
        self.stuck != 0
    }

    fn relief_bytes(&self) -> u64 {
        RELIEF_BYTES_MIN.max(self.bytes as u64 / RELIEF_PART)
    }

    /// Says which lanes are stuck. Gives the ordinal from which the next step goes on; None where nothing is to be done.
    ///
    /// A pass begins when enough is complete of the pages that only stuck lanes keep. Another lane that is stuck may have made any page one
    /// of these.
    pub(crate) fn relief_from(&mut self, stuck: LaneSet) -> Option<u64> {
        if stuck & !self.stuck != 0 {
            self.dead_behind_stuck = self.dead;
        }
        self.stuck = stuck;
        if stuck == 0 {
            self.relieving = None;
        } else if self.relieving.is_none() && self.dead_behind_stuck >= self.relief_bytes() {
            self.relieving = Some(0);
            self.dead_behind_stuck = 0;
        }
        self.relieving
    }

    /// A step has come to this ordinal; the highest number is the end of the pass.
    pub(crate) fn relieved(&mut self, until: u64) {
        self.relieving = (until < u64::MAX).then_some(until);
    }

    /// How far a step comes in the runs of a lane, from an ordinal on, if it moves about `room` bytes, and a record at least: the ordinal of
    /// the next record.
    pub(crate) fn reach<'a>(
        &self,
        lists: impl IntoIterator<Item = &'a Runs>,
        from: u64,
        mut room: u64,
    ) -> u64 {
        for runs in lists {
            for run in runs.iter().skip(self.index_from(runs, from)) {
                if room == 0 {
                    return self.ordinal(run.slot, run.start);
                }
                room = room.saturating_sub(LOOK_BYTES);
                if !self.is_movable(run.slot) {
                    continue;
                }
                let (fitting, left) = self.slot(run.slot).leaf.fitting(*run, room);
                room = if fitting < run.len() { 0 } else { left };
                let moved = fitting.max(1);
                if moved < run.len() {
                    return self.ordinal(run.slot, run.start + moved);
                }
            }
        }
        u64::MAX
    }

    /// Index of the first run that begins at an ordinal or behind it.
    fn index_from(&self, runs: &Runs, from: u64) -> usize {
        runs.partition_point(|run| self.ordinal(run.slot, run.start) < from)
    }

    /// Whether only stuck lanes keep a page, and a part of it is complete or it is small.
    fn is_movable(&self, slot: SlotId) -> bool {
        let slot = self.slot(slot);
        slot.lanes & !self.stuck == 0 && (slot.is_sparse() || slot.is_small())
    }

    /// Moves the records of a stuck lane's runs that begin within `step`, up to its end, into pages of the lane's own: those in pages that
    /// can be moved, where that gains something. `around` are the pages in which the lane has others just before and behind these runs.
    /// Calls `moved` for each new page.
    ///
    /// A record moves at most once while its lane is stuck, or a few times while its page is small, so this is O(1) a record.
    pub(crate) fn gather(
        &mut self,
        lane: u8,
        runs: &mut Runs,
        step: &Range<u64>,
        around: [Option<SlotId>; 2],
        mut moved: impl FnMut(Moved),
    ) {
        let begin = self.index_from(runs, step.start);
        let mut before = match begin.checked_sub(1) {
            Some(last) => runs.get(last).map(|run| run.slot),
            None => around[0],
        };
        let (mut end, mut others) = (begin, Vec::new());
        // Runs that follow each other and can be moved.
        let (mut stretch, mut sparse) = (Vec::new(), false);
        loop {
            let next = runs.get(end);
            let inside = next.filter(|run| self.ordinal(run.slot, run.start) < step.end);
            // What a lane has of a page stays together: where its first part is behind the step already, the rest waits for the next pass.
            let movable =
                inside.filter(|run| self.is_movable(run.slot) && before != Some(run.slot));
            if let Some(run) = movable {
                sparse |= self.slot(run.slot).is_sparse();
                stretch.push(run);
                end += 1;
                continue;
            }
            if sparse || stretch.len() > 1 {
                let rest = self.cut(&mut stretch, step.end);
                let behind = rest.or(next).map(|run| run.slot).or(around[1]);
                let bytes_before = self.bytes;
                let own = self.move_out(lane, &stretch, behind);
                stretch.clear();
                others.push(own);
                others.extend(rest);
                moved(Moved {
                    records: own.len(),
                    bytes_before,
                    bytes_after: self.bytes,
                });
            }
            others.append(&mut stretch);
            sparse = false;
            let Some(run) = inside else {
                break;
            };
            others.push(run);
            before = Some(run.slot);
            end += 1;
        }
        if begin < end {
            runs.replace(begin..end, &others);
        }
    }

    /// Cuts the last of some runs at an ordinal, which it begins before, and gives what is behind that.
    fn cut(&self, runs: &mut [Run], until: u64) -> Option<Run> {
        let last = runs.last_mut()?;
        let leaf = &self.slot(last.slot).leaf;
        let order = &leaf.order()[last.range()];
        let inside = order.partition_point(|index| leaf.ordinal(*index) < until);
        let rest = Run {
            start: last.start + to_u32(inside),
            ..*last
        };
        last.end = rest.start;
        (rest.len() > 0).then_some(rest)
    }

    /// Moves the records of some runs of a lane into a fresh page. `behind` is the page in which it has the next one.
    fn move_out(&mut self, lane: u8, runs: &[Run], behind: Option<SlotId>) -> Run {
        let records = || {
            runs.iter().flat_map(|run| {
                let leaf = &self.slot(run.slot).leaf;
                leaf.order()[run.range()]
                    .iter()
                    .map(|index| (&**leaf, *index))
            })
        };
        let leaf = Leaf::of(records());
        let before = self.predecessor(runs[0].slot, runs[0].start);
        let lanes = vec![lane; leaf.page.len()];
        // What the lanes leave by moving is no reason for another pass.
        let dead_behind_stuck = self.dead_behind_stuck;
        for (at, run) in runs.iter().enumerate() {
            let next = runs.get(at + 1).map(|run| run.slot).or(behind);
            self.complete(*run, (next != Some(run.slot)).then_some(lane));
        }
        self.dead_behind_stuck = dead_behind_stuck;
        let own = self.insert_leaf(leaf, &lanes, before);
        own.expect("moved records are alive")[usize::from(lane)]
    }
}
