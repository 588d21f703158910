//! The pages that a shard holds, and where each record of them is. Owns the byte half of invariant I10.
//!
//! At intake the records of a page are grouped by lane with a counting sort: `order` holds their indices, lane after lane, each lane
//! in the page's order, and `sizes` what each adds to an event, in the same order. What a lane has of a page is then a range of these,
//! a [`Run`]; queues and batches are lists of runs. That is 8 bytes a record beside its entry in the page, and O(1) a record. From then
//! on a batch is cut by its sizes, which stand side by side, without a look at the page.
//!
//! A page is freed when all of its records are complete. Lanes that are stuck would keep pages of which little is alive: their
//! records move into pages of their own, see `relief`.

mod relief;

use std::ops::Range;
use std::sync::Arc;

pub(crate) use self::relief::Moved;
use crate::lanes::lane;
use crate::page::{ENTRY_BYTES, Page, Record};
use crate::position::Position;

/// Index of a slot of the buffer.
pub(crate) type SlotId = u32;

/// The most lanes that a shard has.
pub(crate) const LANES_MAX: usize = 10;

/// What each lane has of a page; empty runs where it has nothing.
pub(crate) type LaneRuns = [Run; LANES_MAX];

/// A set of lanes, one bit each.
pub(crate) type LaneSet = u16;

/// Some records of one lane in one page: positions `start..end` of the slot's `order`.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) slot: SlotId,
    pub(crate) start: u32,
    pub(crate) end: u32,
}

impl Run {
    pub(crate) fn len(self) -> u32 {
        self.end - self.start
    }

    fn range(self) -> Range<usize> {
        to_usize(self.start)..to_usize(self.end)
    }
}

/// A page and what the shard knows of it. Shared with the batches made of it.
#[derive(Debug)]
pub(crate) struct Leaf {
    pub(crate) page: Arc<Page>,
    numbers: Numbers,
    /// Ordinal of record 0.
    first_ordinal: u64,
    /// Of a page of moved records: what to add to `first_ordinal`, for each record; empty where it is the index.
    gaps: Vec<u32>,
    /// When record 0 was taken in.
    offered_at: i64,
    /// Of a page of moved records: the first records that were taken in at another instant than the one before them, and when.
    offered_later: Vec<(u32, i64)>,
}

/// So many records of a page have their numbers in the leaf itself: a page of few needs no memory for them.
const FEW_RECORDS: usize = 12;

/// Two numbers for each incomplete record of a page: where it stands, and its size.
#[derive(Debug)]
enum Numbers {
    Few {
        records: usize,
        all: [u32; 2 * FEW_RECORDS],
    },
    Many(Box<[u32]>),
}

impl Numbers {
    /// Zeros.
    fn new(records: usize) -> Self {
        if records <= FEW_RECORDS {
            let all = [0; 2 * FEW_RECORDS];
            Self::Few { records, all }
        } else {
            Self::Many(vec![0; 2 * records].into())
        }
    }

    /// The indices, then the sizes.
    fn both(&self) -> (&[u32], &[u32]) {
        match self {
            Self::Few { records, all } => all[..2 * records].split_at(*records),
            Self::Many(all) => all.split_at(all.len() / 2),
        }
    }

    fn both_mut(&mut self) -> (&mut [u32], &mut [u32]) {
        match self {
            Self::Few { records, all } => all[..2 * *records].split_at_mut(*records),
            Self::Many(all) => {
                let records = all.len() / 2;
                all.split_at_mut(records)
            }
        }
    }
}

/// What a record takes beside its text.
const RECORD_BYTES: u64 = ENTRY_BYTES as u64 + 8;

impl Leaf {
    /// A page of its own, outside the buffer, with its records in order.
    pub(crate) fn detached(page: Page) -> Self {
        let mut numbers = Numbers::new(page.len());
        let (order, sizes) = numbers.both_mut();
        let places = order.iter_mut().zip(sizes);
        for (((at, size), index), bytes) in places.zip(0..).zip(page.all_event_bytes()) {
            (*at, *size) = (index, bytes);
        }
        Self {
            numbers,
            page: Arc::new(page),
            first_ordinal: 0,
            gaps: Vec::new(),
            offered_at: 0,
            offered_later: Vec::new(),
        }
    }

    /// Some records in the order of the log in a page of their own, not grouped by lane yet.
    fn of<'a>(records: impl Iterator<Item = (&'a Self, u32)> + Clone) -> Self {
        let mut ordinals = records.clone().map(|(leaf, index)| leaf.ordinal(index));
        let first_ordinal = ordinals.next().expect("there is a record to move");
        let gap = |ordinal| {
            u32::try_from(ordinal - first_ordinal).expect("a shard has less than 2^32 records")
        };
        let gaps = std::iter::once(0).chain(ordinals.map(gap)).collect();
        let mut offered = records.clone().map(|(leaf, index)| leaf.offered_at(index));
        let offered_at = offered.next().expect("there is a record to move");
        let mut offered_later: Vec<(u32, i64)> = Vec::new();
        for (index, at) in (1..).zip(offered) {
            if at != offered_later.last().map_or(offered_at, |(_, last)| *last) {
                offered_later.push((index, at));
            }
        }
        offered_later.shrink_to_fit();
        Self {
            page: Arc::new(Page::gather(
                records.map(|(leaf, index)| (&*leaf.page, index)),
            )),
            numbers: Numbers::new(0),
            first_ordinal,
            gaps,
            offered_at,
            offered_later,
        }
    }

    /// Indices of the page's incomplete records at intake, grouped by lane.
    pub(crate) fn order(&self) -> &[u32] {
        self.numbers.both().0
    }

    /// What each of them adds to an event beside the constant parts.
    pub(crate) fn sizes(&self) -> &[u32] {
        self.numbers.both().1
    }

    /// When a record was taken in.
    pub(crate) fn offered_at(&self, index: u32) -> i64 {
        let later = self
            .offered_later
            .partition_point(|(first, _)| *first <= index);
        later
            .checked_sub(1)
            .map_or(self.offered_at, |last| self.offered_later[last].1)
    }

    pub(crate) fn ordinal(&self, index: u32) -> u64 {
        let gap = self.gaps.get(to_usize(index)).copied().unwrap_or(index);
        self.first_ordinal + u64::from(gap)
    }

    pub(crate) fn held_bytes(&self) -> usize {
        let gaps = self.gaps.capacity() * size_of::<u32>();
        let offers = self.offered_later.capacity() * size_of::<(u32, i64)>();
        let (order, sizes) = self.numbers.both();
        self.page.held_bytes() + size_of_val(order) + size_of_val(sizes) + gaps + offers
    }

    /// About what the records of a run take by themselves.
    fn weight(&self, run: Run) -> u64 {
        let sizes = self.sizes()[run.range()].iter().copied().map(u64::from);
        sizes.sum::<u64>() + u64::from(run.len()) * RECORD_BYTES
    }
}

#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) leaf: Arc<Leaf>,
    /// The last record taken in before this page.
    before: Option<Position>,
    /// Records not complete.
    live: u32,
    /// The lanes that they are in.
    lanes: LaneSet,
    /// What all records of the page weigh, and those of them that are complete.
    weight: u64,
    dead: u64,
}

impl Slot {
    /// Index in the page of what stands at `at` of the order.
    pub(crate) fn index(&self, at: u32) -> u32 {
        self.leaf.order()[to_usize(at)]
    }

    /// The position before the record at index `index` of the page; before its aggregate, if it is part of one. A source goes on after a
    /// sequence number, so an aggregate of which a part is complete must be read again as a whole.
    ///
    /// Exact in a page as it came. In a page of moved records it may be lower: the record before it among those that moved.
    fn predecessor(&self, index: u32) -> Option<Position> {
        let begin = self.leaf.page.begin_of_aggregate(to_usize(index));
        match begin.checked_sub(1) {
            Some(previous) => Some(self.leaf.page.position(previous)),
            None => self.before.clone(),
        }
    }
}

/// Where a page may be.
#[derive(Debug)]
enum Space {
    Held(Slot),
    /// It may be used again, as may the one that was left before it.
    Free(Option<SlotId>),
}

impl Space {
    fn slot(&self) -> Option<&Slot> {
        match self {
            Self::Held(slot) => Some(slot),
            Self::Free(_) => None,
        }
    }
}

/// Slots of pages, reused.
#[derive(Debug, Default)]
pub(crate) struct Buffer {
    slots: Vec<Space>,
    /// The one that was left last.
    free: Option<SlotId>,
    bytes: usize,
    live: u64,
    /// What is complete of the pages held.
    dead: u64,
    /// Lanes that were stuck when it was last said.
    stuck: LaneSet,
    /// What is complete of pages that only stuck lanes keep, as far as it has come since the last relief.
    dead_behind_stuck: u64,
    /// Relief is under way: the records of stuck lanes have been looked at up to this ordinal.
    relieving: Option<u64>,
}

/// An update puts the records held into pages of about this size, so that little is there twice while they move,
const RELANED_BYTES: u64 = 4 << 20;
/// and of so many records at most.
const RELANED_RECORDS: usize = 10_000;
/// The lane of a record that is complete when it is taken in.
pub(crate) const NO_LANE: u8 = u8::MAX;

impl Buffer {
    /// Room for one page is there from the beginning: most shards have no more at once.
    pub(crate) fn new() -> Self {
        Self {
            slots: Vec::with_capacity(1),
            ..Self::default()
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn live(&self) -> u64 {
        self.live
    }

    pub(crate) fn slot(&self, id: SlotId) -> &Slot {
        let slot = self.slots[to_usize(id)].slot();
        slot.expect("a run points to a held page")
    }

    fn slot_mut(&mut self, id: SlotId) -> &mut Slot {
        match &mut self.slots[to_usize(id)] {
            Space::Held(slot) => slot,
            Space::Free(_) => unreachable!("a run points to a held page"),
        }
    }

    /// The records of these runs.
    pub(crate) fn records(
        &self,
        runs: impl Iterator<Item = Run>,
    ) -> impl Iterator<Item = Record<'_>> {
        runs.flat_map(|run| {
            let leaf = &*self.slot(run.slot).leaf;
            let indices = leaf.order()[run.range()].iter();
            indices.map(|index| leaf.page.record(to_usize(*index)))
        })
    }

    /// Takes a page in. `lanes` has each record's lane, or [`NO_LANE`] for one that is complete already. None if
    /// nothing of the page is alive.
    pub(crate) fn insert(
        &mut self,
        page: Arc<Page>,
        lanes: &[u8],
        first_ordinal: u64,
        before: Option<Position>,
        offered_at: i64,
    ) -> Option<LaneRuns> {
        let leaf = Leaf {
            page,
            numbers: Numbers::new(0),
            first_ordinal,
            gaps: Vec::new(),
            offered_at,
            offered_later: Vec::new(),
        };
        self.insert_leaf(leaf, lanes, before)
    }

    /// Groups the records of a leaf by lane and gives it a slot.
    fn insert_leaf(
        &mut self,
        mut leaf: Leaf,
        lanes: &[u8],
        before: Option<Position>,
    ) -> Option<LaneRuns> {
        // What stands at a lane is where it begins, so it is counted behind it. Records without a lane have no place.
        let mut next = [0_u32; LANES_MAX + 1];
        for lane in lanes {
            if let Some(count) = next.get_mut(usize::from(*lane) + 1) {
                *count += 1;
            }
        }
        for lane in 0..LANES_MAX {
            next[lane + 1] += next[lane];
        }
        let live = next[LANES_MAX];
        if live == 0 {
            return None;
        }
        let mut runs = LaneRuns::default();
        for (run, bounds) in runs.iter_mut().zip(next.windows(2)) {
            (run.start, run.end) = (bounds[0], bounds[1]);
        }
        leaf.numbers = Numbers::new(to_usize(live));
        let (order, sizes) = leaf.numbers.both_mut();
        let (mut weight, mut dead) = (0, 0);
        let records = (0..).zip(leaf.page.all_event_bytes());
        if runs.iter().any(|run| to_usize(run.len()) == lanes.len()) {
            // All of one lane are in their order already.
            for ((at, size), (index, bytes)) in order.iter_mut().zip(sizes).zip(records) {
                weight += u64::from(bytes) + RECORD_BYTES;
                (*at, *size) = (index, bytes);
            }
        } else {
            for (lane, (index, bytes)) in lanes.iter().zip(records) {
                let own = u64::from(bytes) + RECORD_BYTES;
                weight += own;
                if *lane == NO_LANE {
                    dead += own;
                    continue;
                }
                let at = &mut next[usize::from(*lane)];
                order[to_usize(*at)] = index;
                sizes[to_usize(*at)] = bytes;
                *at += 1;
            }
        }
        let in_it = runs.iter().zip(0..).filter(|(run, _)| run.len() > 0);
        let lanes = in_it.fold(0, |set, (_, lane)| set | 1 << lane);
        let id = self.hold(Slot {
            leaf: Arc::new(leaf),
            before,
            live,
            lanes,
            weight,
            dead,
        });
        for run in &mut runs {
            run.slot = id;
        }
        Some(runs)
    }

    fn hold(&mut self, slot: Slot) -> SlotId {
        self.bytes += slot.leaf.held_bytes();
        self.live += u64::from(slot.live);
        self.dead += slot.dead;
        if slot.lanes & !self.stuck == 0 {
            self.dead_behind_stuck += slot.dead;
        }
        if let Some(id) = self.free {
            let space = &mut self.slots[to_usize(id)];
            match std::mem::replace(space, Space::Held(slot)) {
                Space::Free(before) => self.free = before,
                Space::Held(_) => unreachable!("what was left is free"),
            }
            return id;
        }
        self.slots.push(Space::Held(slot));
        to_u32(self.slots.len() - 1)
    }

    /// Says that the records of a run are complete; frees the page with its last one. `left` is the lane, where it has no more in the page.
    pub(crate) fn complete(&mut self, run: Run, left: Option<u8>) {
        let stuck = self.stuck;
        let slot = self.slot_mut(run.slot);
        let weight = slot.leaf.weight(run);
        slot.live -= run.len();
        slot.dead += weight;
        let live = slot.live;
        let mut behind_stuck = 0;
        if let Some(lane) = left {
            slot.lanes &= !(1 << lane);
            if slot.lanes & !stuck == 0 {
                behind_stuck = slot.dead;
            }
        }
        self.live -= u64::from(run.len());
        self.dead += weight;
        if live == 0 {
            self.release(run.slot);
        } else {
            self.dead_behind_stuck += behind_stuck;
        }
    }

    fn release(&mut self, id: SlotId) {
        let space = &mut self.slots[to_usize(id)];
        let Space::Held(slot) = std::mem::replace(space, Space::Free(self.free)) else {
            unreachable!("only a held page is released");
        };
        self.free = Some(id);
        self.bytes -= slot.leaf.held_bytes();
        self.dead -= slot.dead;
    }

    /// Moves all incomplete records into fresh pages, in the order of the log, for other lanes. `live` holds every live run. Returns the
    /// runs of each page, oldest page first.
    pub(crate) fn relane(&mut self, live: &[Run], lane_count: u8) -> Vec<LaneRuns> {
        // Lanes have other numbers now.
        (self.stuck, self.dead_behind_stuck, self.relieving) = (0, 0, None);
        let mut records: Vec<(u64, SlotId, u32)> = Vec::new();
        for run in live {
            let leaf = &self.slot(run.slot).leaf;
            let indices = leaf.order()[run.range()].iter();
            records.extend(indices.map(|index| (leaf.ordinal(*index), run.slot, *index)));
        }
        records.sort_unstable();
        let mut pages = Vec::new();
        let mut rest = &records[..];
        while !rest.is_empty() {
            let mut weight = 0;
            let fitting = rest
                .iter()
                .take(RELANED_RECORDS)
                .take_while(|(_, slot, index)| {
                    let room = weight < RELANED_BYTES;
                    weight += u64::from(self.slot(*slot).leaf.page.event_bytes(*index as usize));
                    room
                });
            let (moved, later) = rest.split_at(fitting.count());
            rest = later;
            let refs = moved
                .iter()
                .map(|(_, slot, index)| (&*self.slot(*slot).leaf, *index));
            let leaf = Leaf::of(refs);
            let (_, slot, index) = moved[0];
            let first = self.slot(slot);
            let before = first.predecessor(index).max(first.before.clone());
            let lanes: Vec<u8> = (0..leaf.page.len())
                .map(|index| lane(leaf.page.key_hash(index), lane_count))
                .collect();
            for (_, slot, _) in moved {
                self.let_go(*slot);
            }
            let runs = self.insert_leaf(leaf, &lanes, before);
            pages.push(runs.expect("moved records are alive"));
        }
        pages
    }

    /// One record of a page has moved elsewhere, and all others will.
    fn let_go(&mut self, id: SlotId) {
        let slot = self.slot_mut(id);
        slot.live -= 1;
        let live = slot.live;
        self.live -= 1;
        if live == 0 {
            self.release(id);
        }
    }

    /// The ordinal of the record at position `at` of a slot's order.
    pub(crate) fn ordinal(&self, slot: SlotId, at: u32) -> u64 {
        let slot = self.slot(slot);
        slot.leaf.ordinal(slot.index(at))
    }

    /// The position before the record at `at` of a slot's order, or before its aggregate.
    pub(crate) fn predecessor(&self, slot: SlotId, at: u32) -> Option<Position> {
        let slot = self.slot(slot);
        slot.predecessor(slot.index(at)).max(slot.before.clone())
    }

    /// Counts bytes and records anew and compares. `live` holds every live run with its lane.
    pub(crate) fn check(&self, live: &[(u8, Run)]) {
        let held: Vec<_> = self.slots.iter().filter_map(Space::slot).collect();
        let bytes: usize = held.iter().map(|slot| slot.leaf.held_bytes()).sum();
        assert_eq!(
            bytes, self.bytes,
            "I10: bytes held are those of the pages held"
        );
        assert!(
            self.stuck != 0 || self.relieving.is_none(),
            "I10: relief is of stuck lanes"
        );
        let dead: u64 = held.iter().map(|slot| slot.dead).sum();
        assert_eq!(dead, self.dead, "I10: what is complete is counted by page");
        let mut found = vec![(0, 0, 0); self.slots.len()];
        for (lane, run) in live {
            assert!(run.start < run.end, "I10: a run holds a record");
            let (count, lanes, weight) = &mut found[to_usize(run.slot)];
            *count += run.len();
            *lanes |= 1 << lane;
            *weight += self.slot(run.slot).leaf.weight(*run);
        }
        for (slot, found) in self.slots.iter().map(Space::slot).zip(&found) {
            let own = slot.map_or((0, 0, 0), |slot| {
                (slot.live, slot.lanes, slot.weight - slot.dead)
            });
            assert_eq!(
                *found, own,
                "I10: live records of a page are those of its runs"
            );
            assert!(
                slot.is_none() || own.0 > 0,
                "I10: a page without live records is freed"
            );
        }
        let live: u64 = found.iter().map(|(count, ..)| u64::from(*count)).sum();
        assert_eq!(live, self.live, "I10: live records are those of the pages");
    }
}

pub(crate) fn to_usize(n: u32) -> usize {
    n as usize
}

fn to_u32(n: usize) -> u32 {
    u32::try_from(n).expect("pages and slots are counted in 32 bits")
}
