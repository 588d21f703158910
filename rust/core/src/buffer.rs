//! The pages that a shard holds, and where each record of them is. Owns the byte half of invariant I10.
//!
//! At intake the records of a page are grouped by lane with a counting sort: `order` holds their indices, lane after lane, each lane
//! in the page's order. What a lane has of a page is then a range of `order`, a [`Run`]; queues and batches are lists of runs. That is
//! 4 bytes a record beside its entry in the page, and O(1) a record.
//!
//! A page is freed when all of its records are complete. Where few are left and a lane is parked, they move into a fresh page.

use std::sync::Arc;

use crate::lanes::lane;
use crate::page::Page;
use crate::position::Position;

/// Index of a slot of the buffer.
pub(crate) type SlotId = u32;

/// Some records of one lane in one page: positions `start..end` of the slot's `order`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) slot: SlotId,
    pub(crate) start: u32,
    pub(crate) end: u32,
}

impl Run {
    pub(crate) fn len(self) -> u32 {
        self.end - self.start
    }
}

/// A page and what the shard knows of it. Shared with the batches made of it.
#[derive(Debug)]
pub(crate) struct Leaf {
    pub(crate) page: Arc<Page>,
    /// Indices of the page's incomplete records at intake, grouped by lane.
    pub(crate) order: Vec<u32>,
    /// Ordinal of record 0.
    first_ordinal: u64,
    /// Of a compacted page: what to add to `first_ordinal`, for each record; empty where it is the index.
    gaps: Vec<u32>,
}

impl Leaf {
    /// A page of its own, outside the buffer, with its records in order.
    pub(crate) fn detached(page: Page) -> Self {
        Self {
            order: (0..to_u32(page.len())).collect(),
            page: Arc::new(page),
            first_ordinal: 0,
            gaps: Vec::new(),
        }
    }

    pub(crate) fn ordinal(&self, index: u32) -> u64 {
        let gap = self.gaps.get(to_usize(index)).copied().unwrap_or(index);
        self.first_ordinal + u64::from(gap)
    }

    pub(crate) fn first_ordinal(&self) -> u64 {
        self.first_ordinal
    }

    pub(crate) fn held_bytes(&self) -> usize {
        self.page.held_bytes() + (self.order.capacity() + self.gaps.capacity()) * 4
    }
}

#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) leaf: Arc<Leaf>,
    /// The last record taken in before this page.
    before: Option<Position>,
    /// When the page was taken in.
    pub(crate) offered_at: i64,
    /// Records not complete.
    live: u32,
    /// Whether the slot is already listed as sparse.
    sparse: bool,
}

impl Slot {
    /// Index in the page of what stands at `at` of the order.
    pub(crate) fn index(&self, at: u32) -> u32 {
        self.leaf.order[to_usize(at)]
    }

    /// The position before the record at index `index` of the page; before its aggregate, if it is part of one. A source goes on after a
    /// sequence number, so an aggregate of which a part is complete must be read again as a whole.
    ///
    /// Exact in a page as it came. In a compacted page it may be lower: the record before it among those that moved.
    fn predecessor(&self, index: u32) -> Option<Position> {
        let begin = self.leaf.page.begin_of_aggregate(to_usize(index));
        match begin.checked_sub(1) {
            Some(previous) => Some(self.leaf.page.position(previous)),
            None => self.before.clone(),
        }
    }
}

/// Slots of pages, reused.
#[derive(Debug, Default)]
pub(crate) struct Buffer {
    slots: Vec<Option<Slot>>,
    free: Vec<SlotId>,
    bytes: usize,
    live: u64,
    /// Slots of which at most a quarter is alive, looked at again when a lane parks.
    sparse: Vec<SlotId>,
}

/// Compaction of a smaller page would save less than it costs to think about.
const COMPACTION_BYTES_MIN: usize = 16 * 1024;

impl Buffer {
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn live(&self) -> u64 {
        self.live
    }

    pub(crate) fn slot(&self, id: SlotId) -> &Slot {
        self.slots[to_usize(id)]
            .as_ref()
            .expect("a run points to a held page")
    }

    /// Takes a page in. `lane_of` gives each record's lane, or None for one that is complete already. Returns a run for each lane
    /// (empty ones too), or None if nothing of the page is alive.
    pub(crate) fn insert(
        &mut self,
        page: Arc<Page>,
        lanes: &[Option<u8>],
        lane_count: u8,
        first_ordinal: u64,
        before: Option<Position>,
        offered_at: i64,
    ) -> Option<Vec<Run>> {
        let (order, bounds) = group(lanes, lane_count);
        let live = u32::try_from(order.len()).expect("a page has less than 2^32 records");
        if live == 0 {
            return None;
        }
        let leaf = Leaf {
            page,
            order,
            first_ordinal,
            gaps: Vec::new(),
        };
        self.bytes += leaf.held_bytes();
        self.live += u64::from(live);
        let slot = Slot {
            leaf: Arc::new(leaf),
            before,
            offered_at,
            live,
            sparse: false,
        };
        let id = if let Some(id) = self.free.pop() {
            self.slots[to_usize(id)] = Some(slot);
            id
        } else {
            self.slots.push(Some(slot));
            to_u32(self.slots.len() - 1)
        };
        Some(
            bounds
                .windows(2)
                .map(|b| Run {
                    slot: id,
                    start: b[0],
                    end: b[1],
                })
                .collect(),
        )
    }

    /// Says that the records of a run are complete; frees the page with its last one.
    pub(crate) fn complete(&mut self, run: Run) {
        let entry = &mut self.slots[to_usize(run.slot)];
        let slot = entry.as_mut().expect("a run points to a held page");
        slot.live -= run.len();
        self.live -= u64::from(run.len());
        if slot.live == 0 {
            self.bytes -= slot.leaf.held_bytes();
            *entry = None;
            self.free.push(run.slot);
        } else if !slot.sparse
            && to_usize(slot.live) * 4 <= slot.leaf.page.len()
            && slot.leaf.held_bytes() >= COMPACTION_BYTES_MIN
        {
            slot.sparse = true;
            self.sparse.push(run.slot);
        }
    }

    /// The sparse slots, to look at; give back those that stay with [`Self::keep_sparse`].
    pub(crate) fn take_sparse(&mut self) -> Vec<SlotId> {
        let mut sparse = std::mem::take(&mut self.sparse);
        // A freed and reused slot is listed anew when it becomes sparse itself.
        sparse.retain(|id| {
            self.slots[to_usize(*id)]
                .as_ref()
                .is_some_and(|slot| slot.sparse)
        });
        sparse.sort_unstable();
        sparse.dedup();
        sparse
    }

    pub(crate) fn keep_sparse(&mut self, id: SlotId) {
        self.sparse.push(id);
    }

    /// Moves the live records of a slot into a fresh page. `live` holds the live run of each lane; the returned runs take their place.
    ///
    /// No batch of the slot may be in flight: it would keep the old page in memory beside the new one.
    pub(crate) fn compact(&mut self, id: SlotId, live: &[Run]) -> Vec<Run> {
        let order = &self.slot(id).leaf.order;
        let by_lane: Vec<u32> = live
            .iter()
            .flat_map(|run| &order[to_usize(run.start)..to_usize(run.end)])
            .copied()
            .collect();
        self.repack(id, &by_lane);
        let mut start = 0;
        live.iter()
            .map(|run| {
                let moved = Run {
                    slot: id,
                    start,
                    end: start + run.len(),
                };
                start = moved.end;
                moved
            })
            .collect()
    }

    /// Gives a slot a fresh page with all of its live records, and `by_lane` as their order.
    fn repack(&mut self, id: SlotId, by_lane: &[u32]) {
        let slot = self.slots[to_usize(id)]
            .as_mut()
            .expect("only a held page is repacked");
        assert_eq!(
            by_lane.len(),
            to_usize(slot.live),
            "I10: live records of a page are those of its runs"
        );
        let old = &slot.leaf;
        let mut indices = by_lane.to_vec();
        indices.sort_unstable();
        let gap = |index: &u32| {
            u32::try_from(old.ordinal(*index) - old.first_ordinal)
                .expect("a page has less than 2^32 records")
        };
        let leaf = Leaf {
            page: Arc::new(old.page.compact(&indices)),
            order: by_lane
                .iter()
                .map(|index| to_u32(indices.partition_point(|moved| moved < index)))
                .collect(),
            first_ordinal: old.first_ordinal,
            gaps: indices.iter().map(gap).collect(),
        };
        // The record before the first that moved, while its text is still here.
        slot.before = slot.predecessor(indices[0]).max(slot.before.take());
        self.bytes = self.bytes - slot.leaf.held_bytes() + leaf.held_bytes();
        slot.leaf = Arc::new(leaf);
        slot.sparse = false;
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

    /// Puts the incomplete records of every page into other lanes. `live` holds every live run. Returns the runs of each page, oldest
    /// page first.
    pub(crate) fn relane(&mut self, live: &[Run], lane_count: u8) -> Vec<Vec<Run>> {
        let mut by_slot: Vec<(u64, SlotId, Vec<u32>)> = Vec::new();
        let mut sorted = live.to_vec();
        sorted.sort_unstable_by_key(|run| run.slot);
        for run in sorted {
            let leaf = &self.slot(run.slot).leaf;
            let indices = &leaf.order[to_usize(run.start)..to_usize(run.end)];
            match by_slot.last_mut() {
                Some((_, slot, all)) if *slot == run.slot => all.extend_from_slice(indices),
                _ => by_slot.push((leaf.first_ordinal, run.slot, indices.to_vec())),
            }
        }
        by_slot.sort_unstable();
        by_slot
            .into_iter()
            .map(|(_, id, mut indices)| {
                indices.sort_unstable();
                let page = &self.slot(id).leaf.page;
                let lanes: Vec<_> = indices
                    .iter()
                    .map(|index| Some(lane(page.key_hash(to_usize(*index)), lane_count)))
                    .collect();
                let (grouped, bounds) = group(&lanes, lane_count);
                let by_lane: Vec<u32> = grouped
                    .into_iter()
                    .map(|at| indices[to_usize(at)])
                    .collect();
                self.repack(id, &by_lane);
                bounds
                    .windows(2)
                    .map(|b| Run {
                        slot: id,
                        start: b[0],
                        end: b[1],
                    })
                    .collect()
            })
            .collect()
    }

    /// Counts bytes and live records anew and compares.
    pub(crate) fn check(&self, live: &[Run]) {
        let held: Vec<_> = self.slots.iter().flatten().collect();
        let bytes: usize = held.iter().map(|slot| slot.leaf.held_bytes()).sum();
        assert_eq!(
            bytes, self.bytes,
            "I10: bytes held are those of the pages held"
        );
        let mut counts = vec![0; self.slots.len()];
        for run in live {
            assert!(run.start <= run.end, "I10: a run is a range");
            counts[to_usize(run.slot)] += run.len();
        }
        for (id, slot) in self.slots.iter().enumerate() {
            let live = slot.as_ref().map_or(0, |slot| slot.live);
            assert_eq!(
                counts[id], live,
                "I10: live records of a page are those of its runs"
            );
            assert!(
                slot.is_none() || live > 0,
                "I10: a page without live records is freed"
            );
        }
        let live: u64 = counts.iter().copied().map(u64::from).sum();
        assert_eq!(live, self.live, "I10: live records are those of the pages");
    }
}

/// Counting sort of record indices by lane: the order, and the bounds of each lane in it.
fn group(lanes: &[Option<u8>], lane_count: u8) -> (Vec<u32>, Vec<u32>) {
    let mut bounds = vec![0_u32; usize::from(lane_count) + 1];
    for lane in lanes.iter().flatten() {
        bounds[usize::from(*lane) + 1] += 1;
    }
    for lane in 0..usize::from(lane_count) {
        bounds[lane + 1] += bounds[lane];
    }
    let mut next = bounds.clone();
    let mut order = vec![0; to_usize(bounds[usize::from(lane_count)])];
    for (index, lane) in lanes.iter().enumerate() {
        if let Some(lane) = lane {
            let at = &mut next[usize::from(*lane)];
            order[to_usize(*at)] = to_u32(index);
            *at += 1;
        }
    }
    (order, bounds)
}

pub(crate) fn to_usize(n: u32) -> usize {
    n as usize
}

fn to_u32(n: usize) -> u32 {
    u32::try_from(n).expect("pages and slots are counted in 32 bits")
}
