//! The records of a batch, and where they are.
//!
//! A batch in flight that somebody has and its lane share its [`SharedRecords`]. Whoever reads takes the [`Records`] out of it, a copy that holds their pages; the
//! shard may put others in their place, which are the same records in other pages. So nothing changes under a reader, and the old
//! pages go when the last one who was reading them is done.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::batch::around_bytes;
use crate::buffer::{Buffer, Leaf, Run, to_usize};
use crate::event::{EventTemplate, Sink};
use crate::page::{Page, Record};
use crate::retry::Work;
use crate::window::Window;

/// Records of one lane in order, and the pages that they are in, which it keeps in memory. To copy it copies no record.
#[derive(Debug, Clone, Default)]
pub struct Records {
    slices: Slices,
    pub(crate) len: u32,
}

/// Most batches are of one page, and need no list.
#[derive(Debug, Clone, Default)]
enum Slices {
    #[default]
    None,
    One(Slice),
    Many(Arc<[Slice]>),
}

#[derive(Debug, Clone)]
struct Slice {
    leaf: Arc<Leaf>,
    start: u32,
    end: u32,
}

impl Slice {
    fn of(buffer: &Buffer, run: Run) -> Self {
        Self {
            leaf: Arc::clone(&buffer.slot(run.slot).leaf),
            start: run.start,
            end: run.end,
        }
    }

    fn indices(&self) -> &[u32] {
        &self.leaf.order()[to_usize(self.start)..to_usize(self.end)]
    }

    /// What its records add to an event beside the constant parts.
    fn bytes(&self) -> usize {
        let sizes = &self.leaf.sizes()[to_usize(self.start)..to_usize(self.end)];
        sizes.iter().copied().map(to_usize).sum()
    }

    fn record(&self, index: u32) -> Record<'_> {
        self.leaf.page.record(to_usize(index))
    }
}

impl Records {
    /// The records of these runs.
    pub(crate) fn of(buffer: &Buffer, runs: impl IntoIterator<Item = Run>) -> Self {
        let mut len = 0;
        let mut slices = runs.into_iter().map(|run| {
            len += run.len();
            Slice::of(buffer, run)
        });
        let slices = match (slices.next(), slices.next()) {
            (None, _) => Slices::None,
            (Some(one), None) => Slices::One(one),
            (first, second) => {
                let first = first.into_iter().chain(second);
                Slices::Many(first.chain(slices).collect())
            }
        };
        Self { slices, len }
    }

    /// The records of the next invocation of a batch.
    pub(crate) fn of_work(buffer: &Buffer, work: &Work) -> Self {
        match work.top_run() {
            Some(run) => Self::of(buffer, Some(run)),
            None => Self::of(buffer, work.top_runs()),
        }
    }

    /// The same records in a page of their own, and the bytes that it takes.
    pub(crate) fn detached(&self) -> (Self, usize) {
        let page = Page::gather(self.indices().map(|(leaf, index)| (&*leaf.page, index)));
        let leaf = Leaf::detached(page);
        let bytes = leaf.held_bytes();
        let own = Slice {
            leaf: Arc::new(leaf),
            start: 0,
            end: self.len,
        };
        let records = Self {
            slices: Slices::One(own),
            len: self.len,
        };
        (records, bytes)
    }

    fn slices(&self) -> &[Slice] {
        match &self.slices {
            Slices::None => &[],
            Slices::One(slice) => std::slice::from_ref(slice),
            Slices::Many(slices) => slices,
        }
    }

    fn indices(&self) -> impl Iterator<Item = (&Leaf, u32)> {
        self.slices().iter().flat_map(|slice| {
            let indices = slice.indices().iter();
            indices.map(|index| (&*slice.leaf, *index))
        })
    }

    /// How many there are: none in the closing call of a tumbling window.
    #[must_use]
    pub fn len(&self) -> usize {
        to_usize(self.len)
    }

    /// Whether there is none, as in the closing call of a tumbling window.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The records in order.
    pub fn iter(&self) -> impl Iterator<Item = Record<'_>> {
        self.indices()
            .map(|(leaf, index)| leaf.page.record(to_usize(index)))
    }

    /// The records in order with their ordinals (dense numbers of this run's shard) and key hashes.
    pub fn numbered(&self) -> impl Iterator<Item = (u64, u64, Record<'_>)> {
        self.indices().map(|(leaf, index)| {
            let at = to_usize(index);
            (
                leaf.ordinal(index),
                leaf.page.key_hash(at),
                leaf.page.record(at),
            )
        })
    }

    /// The first record; None where there is none.
    #[must_use]
    pub fn first(&self) -> Option<Record<'_>> {
        let slice = self.slices().first()?;
        Some(slice.record(*slice.indices().first()?))
    }

    /// The last record; None where there is none.
    #[must_use]
    pub fn last(&self) -> Option<Record<'_>> {
        let slice = self.slices().last()?;
        Some(slice.record(*slice.indices().last()?))
    }

    // ---- their event ----

    /// The size of the event; with a window it may be a few bytes more than is written.
    pub(crate) fn event_bytes(&self, template: &EventTemplate, window: Option<&Window>) -> usize {
        around_bytes(template, window) + self.bytes(template)
    }

    /// What the records and the commas between them add to an event.
    pub(crate) fn bytes(&self, template: &EventTemplate) -> usize {
        let own: usize = self.slices().iter().map(Slice::bytes).sum();
        let constant = self.len() * to_usize(template.record_bytes());
        own + constant + self.len().saturating_sub(1)
    }

    /// Where to cut so that the larger of the two events is smallest: how many records go into the first. There must be two at least.
    pub(crate) fn half_by_bytes(&self, template: &EventTemplate) -> u32 {
        let constant = to_usize(template.record_bytes());
        // Each record with a comma; both parts have one too many of these, and the same envelope.
        let bytes = |(leaf, index): (&Leaf, u32)| {
            constant + to_usize(leaf.page.event_bytes(to_usize(index))) + 1
        };
        let all: usize = self.indices().map(bytes).sum();
        let mut left = 0;
        let larger = self.indices().map(bytes).map(|bytes| {
            left += bytes;
            left.max(all - left)
        });
        let cuts = (1..self.len).zip(larger);
        cuts.min_by_key(|(_, larger)| *larger)
            .map_or(1, |(records, _)| records)
    }

    pub(crate) fn write_event(
        &self,
        template: &EventTemplate,
        window: Option<&Window>,
        out: &mut impl Sink,
    ) {
        let records = self.indices().map(|(leaf, index)| (&*leaf.page, index));
        match window {
            Some(window) => template.write_in_window(out, records, window),
            None => template.write(out, records),
        }
    }
}

/// The records of a batch in flight, which can be put elsewhere meanwhile.
#[derive(Debug)]
pub(crate) struct SharedRecords(Mutex<Records>);

impl SharedRecords {
    pub(crate) fn new(records: Records) -> Self {
        Self(Mutex::new(records))
    }

    /// The records where they are now.
    pub(crate) fn get(&self) -> Records {
        self.lock().clone()
    }

    /// Puts other records in their place, where nobody else can see them.
    pub(crate) fn set(&mut self, records: Records) {
        *self.0.get_mut().unwrap_or_else(PoisonError::into_inner) = records;
    }

    /// Puts the same records in other pages in their place.
    pub(crate) fn put(&self, records: Records) {
        let old = std::mem::replace(&mut *self.lock(), records);
        // Pages are freed here, when no reader waits for the lock.
        drop(old);
    }

    /// Whether it has these records, in these pages.
    pub(crate) fn is_at(&self, records: &Records) -> bool {
        let own = self.get();
        let ends = |slice: &Slice| (Arc::as_ptr(&slice.leaf), slice.start, slice.end);
        own.len == records.len
            && own
                .slices()
                .iter()
                .map(ends)
                .eq(records.slices().iter().map(ends))
    }

    fn lock(&self) -> MutexGuard<'_, Records> {
        // A lock is held to copy or to replace, which leaves nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
