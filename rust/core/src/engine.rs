//! Many shards under one budget: which may fetch, which is ready, what time wakes next.
//!
//! Still pure: no lock, no clock, no thread. A binding adds the lock and the wake-up around it. No call looks at shards that it does not
//! concern, apart from `handles`, `reset` and `check_invariants`; timers are a heap. Owns the budget half of invariant I10.
//!
//! Ready shards stand in a queue: first ready, first served, one batch at a time. Within a shard the lane with the oldest record goes
//! first. A mapping may be capped, so that a slow function cannot take every thread.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;

use crate::batch::{HANDLE_MAX, Outcome, Ticket};
use crate::checkpoint::Checkpoint;
use crate::config::{MappingConfig, ShardConfig};
use crate::discard::{Confirmation, DiscardId};
use crate::error::UsageError;
use crate::filter::{Sieve, Sifted};
use crate::page::Page;
use crate::shard::{Finished, Offered, Shard, Snapshot, Standing, Task, Want};
use crate::stats::ShardStats;
use crate::trace::Event;
use crate::window::ReturnedState;

/// Bytes of pages that an engine holds by default.
pub const BUDGET_BYTES: usize = 256 << 20;
/// What a first fetch is expected to bring; later ones are expected to bring what the shard's pages bring on average.
const PAGE_BYTES_EXPECTED: usize = 64 << 10;

/// What [`Engine::take`] gives.
#[derive(Debug, Clone)]
pub enum Taken {
    /// Do this.
    Task(Task),
    /// Nothing may run now; ask again at this instant, or when something else happens.
    Wait(Option<i64>),
}

#[derive(Debug)]
struct Place {
    shard: Shard,
    mapping: usize,
    /// What a page is expected to cost.
    page_bytes: usize,
    /// Bytes reserved for a fetch under way.
    reserved: Option<usize>,
    /// Bytes counted in `Engine::bytes` for this shard.
    counted: usize,
    /// How many things `Shard::take` could give since the last step.
    ready: usize,
    /// Whether it stands in the ready queue, or in its mapping's.
    queued: bool,
    /// The timer that counts; others of this shard in the heap are void.
    timer: Option<i64>,
    /// What is counted of it in `Engine::standing`.
    standing: Standing,
}

#[derive(Debug, Default)]
struct Mapping {
    shards: usize,
    running: usize,
    running_max: Option<usize>,
    /// Ready shards that wait for a batch of the mapping to finish.
    waiting: VecDeque<u32>,
}

/// How many shards stand in which way.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    busy: usize,
    ends: usize,
}

impl Counts {
    fn add(&mut self, standing: Standing) {
        self.busy += usize::from(standing.busy);
        self.ends += usize::from(standing.is_end());
    }

    fn take_off(&mut self, standing: Standing) {
        self.busy -= usize::from(standing.busy);
        self.ends -= usize::from(standing.is_end());
    }
}

/// Many shards under one budget. The [crate page](crate) is a tutorial.
#[derive(Debug)]
pub struct Engine {
    budget_bytes: usize,
    /// By handle; handles are never used again.
    places: BTreeMap<u32, Box<Place>>,
    /// The handle of the next shard.
    next: u32,
    standing: Counts,
    /// Shards with something that no saved checkpoint has.
    unsaved: BTreeSet<u32>,
    /// Bytes held and reserved.
    bytes: usize,
    reserved: usize,
    names: HashMap<(String, String), u32>,
    mappings: Vec<Mapping>,
    mapping_names: HashMap<String, usize>,
    /// Places in `mappings` of mappings that have no shard any more.
    free_mappings: Vec<usize>,
    ready: VecDeque<u32>,
    timers: BinaryHeap<Reverse<(i64, u32)>>,
    /// Things that have become ready since [`Engine::take_woken`].
    woken: usize,
    trace: Option<Vec<(u32, Event)>>,
}

impl Default for Engine {
    fn default() -> Self {
        Self::new(BUDGET_BYTES)
    }
}

impl Engine {
    /// An engine without shards.
    #[must_use]
    pub fn new(budget_bytes: usize) -> Self {
        Self {
            budget_bytes,
            places: BTreeMap::new(),
            next: 0,
            standing: Counts::default(),
            unsaved: BTreeSet::new(),
            bytes: 0,
            reserved: 0,
            names: HashMap::new(),
            mappings: Vec::new(),
            mapping_names: HashMap::new(),
            free_mappings: Vec::new(),
            ready: VecDeque::new(),
            timers: BinaryHeap::new(),
            woken: 0,
            trace: None,
        }
    }

    /// Adds a shard and returns its handle.
    ///
    /// # Errors
    ///
    /// The mapping has a shard of this name, a parameter is outside its range, or the checkpoint is of another shard.
    pub fn add_shard(
        &mut self,
        config: ShardConfig,
        checkpoint: Option<Checkpoint>,
    ) -> Result<u32, UsageError> {
        let name = (config.key.mapping_uuid.clone(), config.key.shard_id.clone());
        if self.names.contains_key(&name) {
            return Err(UsageError::ShardExists { shard_id: name.1 });
        }
        let handle = self.next;
        assert!(
            handle <= HANDLE_MAX,
            "an engine has at most 2^24 shards in its life"
        );
        let mut shard = Shard::new(handle, config, checkpoint)?;
        if self.trace.is_some() {
            shard.enable_trace();
        }
        self.next += 1;
        let mapping = self.mapping(&name.0);
        self.mappings[mapping].shards += 1;
        self.names.insert(name, handle);
        let place = Place {
            shard,
            mapping,
            page_bytes: PAGE_BYTES_EXPECTED,
            reserved: None,
            counted: 0,
            ready: 0,
            queued: false,
            timer: None,
            standing: Standing::default(),
        };
        self.places.insert(handle, Box::new(place));
        // The window of its checkpoint may be to close.
        self.step(handle, |place| place.shard.tick(i64::MIN))?;
        Ok(handle)
    }

    fn mapping(&mut self, uuid: &str) -> usize {
        if let Some(mapping) = self.mapping_names.get(uuid) {
            return *mapping;
        }
        let mapping = self.free_mappings.pop().unwrap_or_else(|| {
            self.mappings.push(Mapping::default());
            self.mappings.len() - 1
        });
        self.mapping_names.insert(uuid.to_owned(), mapping);
        mapping
    }

    /// Lets at most `running_max` batches of a mapping run at once; None lifts the cap. It lasts as long as the mapping has a shard.
    pub fn cap(&mut self, mapping_uuid: &str, running_max: Option<usize>) {
        let mapping = self.mapping(mapping_uuid);
        self.mappings[mapping].running_max = running_max;
        self.release_waiting(mapping);
    }

    fn place(&mut self, shard: u32) -> Result<&mut Place, UsageError> {
        let place = self.places.get_mut(&shard);
        place
            .map(|place| &mut **place)
            .ok_or(UsageError::NoShard { shard })
    }

    /// Runs one call of a shard, and brings bytes, ready queue, timers and trace up to date after it.
    fn step<T>(&mut self, shard: u32, call: impl FnOnce(&mut Place) -> T) -> Result<T, UsageError> {
        let place = self.place(shard)?;
        let result = call(place);
        let (held, ready) = (place.shard.held_bytes(), place.shard.ready_count());
        let counted = std::mem::replace(&mut place.counted, held);
        let before = std::mem::replace(&mut place.ready, ready);
        let enqueue = ready > 0 && !place.queued;
        place.queued |= enqueue;
        let wake = place.shard.next_wake();
        let timer = wake.filter(|wake| place.timer.is_none_or(|timer| *wake < timer));
        if timer.is_some() {
            place.timer = timer;
        }
        let events = place.shard.drain_trace();
        let standing = place.shard.standing();
        let stood = std::mem::replace(&mut place.standing, standing);
        if standing != stood {
            self.stand(shard, stood, standing);
        }
        self.bytes = self.bytes - counted + held;
        self.woken += ready.saturating_sub(before);
        if enqueue {
            self.ready.push_back(shard);
        }
        self.timers.extend(timer.map(|at| Reverse((at, shard))));
        if let Some(trace) = &mut self.trace {
            trace.extend(events.into_iter().map(|event| (shard, event)));
        }
        Ok(result)
    }

    fn stand(&mut self, shard: u32, stood: Standing, stands: Standing) {
        self.standing.take_off(stood);
        self.standing.add(stands);
        if stands.unsaved {
            self.unsaved.insert(shard);
        } else {
            self.unsaved.remove(&shard);
        }
    }

    // ---- budget ----

    /// Whether the shard may hold `expected` bytes more.
    ///
    /// An empty shard may always fetch one page. Another may hold up to its even share of the budget, or as much as is free: alone it
    /// fills half of the budget, and the more shards there are, the less each takes before it leaves room for the others.
    fn has_room(&self, place: &Place, expected: usize) -> bool {
        let used = self.bytes + self.reserved;
        let own = place.counted + place.reserved.unwrap_or(0);
        let free = self.budget_bytes.saturating_sub(used);
        own == 0
            || (expected <= free
                && own + expected <= free.max(self.budget_bytes / self.places.len().max(1)))
    }

    /// Leave to fetch a page of a shard, or None: one is being fetched, the shard is not running, or there is no room.
    ///
    /// # Errors
    ///
    /// There is no such shard.
    pub fn wants(&mut self, shard: u32, now: i64) -> Result<Option<Want>, UsageError> {
        let place = self.place(shard)?;
        if place.reserved.is_some() {
            return Ok(None);
        }
        let expected = place.page_bytes;
        let place = &self.places[&shard];
        let room = self.has_room(place, expected);
        let want = self.step(shard, |place| place.shard.wants(room, now))?;
        if want.is_some() {
            self.place(shard)?.reserved = Some(expected);
            self.reserved += expected;
        }
        Ok(want)
    }

    /// A fetch brought nothing, not even an empty page: its reservation is given back.
    ///
    /// # Errors
    ///
    /// There is no such shard.
    pub fn fetch_failed(&mut self, shard: u32) -> Result<(), UsageError> {
        self.give_back(shard)?;
        self.step(shard, |place| place.shard.fetch_failed())
    }

    fn give_back(&mut self, shard: u32) -> Result<(), UsageError> {
        let reserved = self.place(shard)?.reserved.take();
        self.reserved -= reserved.unwrap_or(0);
        Ok(())
    }

    /// Takes a page in, whole or not at all. A page that was asked for with [`Self::wants`] is always accepted.
    ///
    /// # Errors
    ///
    /// There is no such shard, it is closed, or no sequence number is left to assign. Nothing is changed then, so the fetch still has its
    /// reservation: call [`Self::fetch_failed`].
    pub fn offer(
        &mut self,
        shard: u32,
        page: impl Into<Arc<Page>>,
        millis_behind: Option<i64>,
        now: i64,
    ) -> Result<Offered, UsageError> {
        self.offer_sifted(shard, page.into(), None, millis_behind, now)
    }

    /// What a shard's records go through, to judge a page outside of a lock; None where its mapping has no filters.
    ///
    /// # Errors
    ///
    /// There is no such shard.
    pub fn sieve(&mut self, shard: u32) -> Result<Option<Sieve>, UsageError> {
        Ok(self.place(shard)?.shard.sieve())
    }

    /// [`Self::offer`] of a page that [`Self::sieve`] has judged.
    ///
    /// # Errors
    ///
    /// See [`Self::offer`].
    pub fn offer_sifted(
        &mut self,
        shard: u32,
        page: Arc<Page>,
        sifted: Option<Sifted>,
        millis_behind: Option<i64>,
        now: i64,
    ) -> Result<Offered, UsageError> {
        let bytes = page.held_bytes();
        self.place(shard)?;
        let place = &self.places[&shard];
        if place.reserved.is_none() && !page.is_empty() && !self.has_room(place, bytes) {
            self.step(shard, |place| place.shard.starve(now))?;
            return Ok(Offered {
                accepted: false,
                records: 0,
                duplicates: 0,
                complete: 0,
                filtered: 0,
            });
        }
        let empty = page.is_empty();
        let offered = self.step(shard, |place| {
            place.shard.offer(page, sifted, millis_behind, now)
        })??;
        let place = self.place(shard)?;
        if !empty {
            place.page_bytes = (3 * place.page_bytes + bytes) / 4;
        }
        self.give_back(shard)?;
        Ok(offered)
    }

    // ---- batches ----

    /// The next thing to do, or when to ask again. Never waits.
    pub fn take(&mut self, now: i64) -> Taken {
        while let Some(Reverse((at, shard))) = self.timers.peek().copied() {
            if at > now {
                break;
            }
            self.timers.pop();
            if let Ok(place) = self.place(shard)
                && place.timer == Some(at)
            {
                place.timer = None;
                let _ = self.step(shard, |place| place.shard.tick(now));
            }
        }
        while let Some(shard) = self.ready.pop_front() {
            let Ok(place) = self.place(shard) else {
                continue;
            };
            place.queued = false;
            let (mapping, discards) = (place.mapping, place.shard.has_discards());
            let group = &mut self.mappings[mapping];
            if !discards && group.running_max.is_some_and(|max| group.running >= max) {
                group.waiting.push_back(shard);
                if let Ok(place) = self.place(shard) {
                    place.queued = true;
                }
                continue;
            }
            let task = self.step(shard, |place| place.shard.take(now));
            if matches!(task, Ok(Some(Task::Run(_)))) {
                self.mappings[mapping].running += 1;
            } else {
                // It has not used the place that it was let go for.
                self.release_waiting(mapping);
            }
            if let Ok(Some(task)) = task {
                return Taken::Task(task);
            }
        }
        Taken::Wait(self.next_wake())
    }

    /// Says how a batch went.
    ///
    /// # Errors
    ///
    /// See [`Shard::finish`]. A ticket of a shard that is gone is no error: it is reported as stale.
    pub fn finish(
        &mut self,
        ticket: Ticket,
        outcome: Outcome,
        returned: Option<ReturnedState>,
        now: i64,
    ) -> Result<Finished, UsageError> {
        let shard = ticket.shard();
        if shard >= self.next {
            return Err(UsageError::NotInFlight);
        }
        if !self.places.contains_key(&shard) {
            return Ok(Finished {
                stale: true,
                discards: Vec::new(),
            });
        }
        let finished = self.step(shard, |place| {
            place.shard.finish(ticket, outcome, returned, now)
        })??;
        let mapping = self.place(shard)?.mapping;
        self.mappings[mapping].running -= 1;
        self.release_waiting(mapping);
        Ok(finished)
    }

    /// Puts the shards that waited for their mapping's cap back into the ready queue, as many as may run: to its front, since they were
    /// ready before those that stand there.
    fn release_waiting(&mut self, mapping: usize) {
        let group = &mut self.mappings[mapping];
        let free = group
            .running_max
            .map_or(usize::MAX, |max| max.saturating_sub(group.running));
        let released = free.min(group.waiting.len());
        for shard in group.waiting.drain(..released).rev() {
            self.ready.push_front(shard);
        }
        self.woken += released;
    }

    /// A discard has reached its destination or is given up. False where it is not waited for: confirmed before, or its shard is gone.
    pub fn confirm(&mut self, discard: DiscardId, how: Confirmation) -> bool {
        self.step(discard.shard(), |place| place.shard.confirm(discard, how))
            .unwrap_or(false)
    }

    // ---- checkpoints ----

    /// A snapshot of a shard, if anything has changed since the last one that was saved.
    ///
    /// # Errors
    ///
    /// There is no such shard.
    pub fn checkpoint(&mut self, shard: u32) -> Result<Option<Snapshot>, UsageError> {
        Ok(self.place(shard)?.shard.checkpoint())
    }

    /// Snapshots of all shards that have changed, with their handles.
    pub fn checkpoints(&mut self) -> Vec<(u32, Snapshot)> {
        let places = &mut self.places;
        let changed = self.unsaved.iter().filter_map(|handle| {
            let place = places.get_mut(handle)?;
            Some((*handle, place.shard.checkpoint()?))
        });
        changed.collect()
    }

    /// The store has a snapshot of this version.
    ///
    /// # Errors
    ///
    /// There is no such shard.
    pub fn saved(&mut self, shard: u32, version: u64) -> Result<(), UsageError> {
        self.step(shard, |place| place.shard.saved(version))
    }

    // ---- life cycle ----

    /// See [`Shard::close`].
    ///
    /// # Errors
    ///
    /// There is no such shard.
    pub fn close(&mut self, shard: u32, now: i64) -> Result<(), UsageError> {
        self.step(shard, |place| place.shard.close(now))
    }

    /// See [`Shard::pause`].
    ///
    /// # Errors
    ///
    /// There is no such shard.
    pub fn pause(&mut self, shard: u32) -> Result<(), UsageError> {
        self.step(shard, |place| place.shard.pause())
    }

    /// See [`Shard::resume`].
    ///
    /// # Errors
    ///
    /// There is no such shard.
    pub fn resume(&mut self, shard: u32, now: i64) -> Result<(), UsageError> {
        self.step(shard, |place| place.shard.resume(now))
    }

    /// See [`Shard::drain`].
    ///
    /// # Errors
    ///
    /// There is no such shard.
    pub fn drain(&mut self, shard: u32, now: i64) -> Result<(), UsageError> {
        self.step(shard, |place| place.shard.drain(now))
    }

    /// See [`Shard::update`].
    ///
    /// # Errors
    ///
    /// There is no such shard, or see there.
    pub fn update(
        &mut self,
        shard: u32,
        mapping: MappingConfig,
        now: i64,
    ) -> Result<(), UsageError> {
        self.step(shard, |place| place.shard.update(mapping, now))?
    }

    /// Takes a shard out. Its batches in flight become stale; what was not saved is handed out again when it is added again.
    ///
    /// # Errors
    ///
    /// There is no such shard.
    pub fn remove(&mut self, shard: u32) -> Result<(), UsageError> {
        let place = self.places.remove(&shard);
        let mut place = place.ok_or(UsageError::NoShard { shard })?;
        let in_flight = place.shard.stats().in_flight;
        let key = &place.shard.config().key;
        let name = (key.mapping_uuid.clone(), key.shard_id.clone());
        self.names.remove(&name);
        self.stand(shard, place.standing, Standing::default());
        self.bytes -= place.counted;
        self.reserved -= place.reserved.unwrap_or(0);
        let mapping = &mut self.mappings[place.mapping];
        mapping.waiting.retain(|waiting| *waiting != shard);
        mapping.running -= in_flight;
        mapping.shards -= 1;
        if mapping.shards == 0 {
            *mapping = Mapping::default();
            self.mapping_names.remove(&name.0);
            self.free_mappings.push(place.mapping);
        } else {
            self.release_waiting(place.mapping);
        }
        Ok(())
    }

    /// Takes every shard out.
    pub fn reset(&mut self) {
        for handle in self.handles() {
            let _ = self.remove(handle);
        }
    }

    /// The handles of all shards.
    #[must_use]
    pub fn handles(&self) -> Vec<u32> {
        self.places.keys().copied().collect()
    }

    /// A shard's state and counts.
    ///
    /// # Errors
    ///
    /// There is no such shard.
    pub fn stats(&mut self, shard: u32) -> Result<ShardStats, UsageError> {
        Ok(self.place(shard)?.shard.stats())
    }

    /// What a shard was made with.
    ///
    /// # Errors
    ///
    /// There is no such shard.
    pub fn config(&mut self, shard: u32) -> Result<&ShardConfig, UsageError> {
        Ok(self.place(shard)?.shard.config())
    }

    /// Bytes of the pages that all shards hold, and of unconfirmed discards.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.bytes
    }

    /// Whether all that was taken in is done: no record is incomplete, no discard unconfirmed, no closing call due or under way.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.standing.busy == 0
    }

    /// How many shards are complete to their ends without a saved checkpoint that says so.
    #[must_use]
    pub fn unsaved_ends(&self) -> usize {
        self.standing.ends
    }

    /// The instant at which to ask [`Self::take`] again if nothing else happens; it may be early, never late.
    #[must_use]
    pub fn next_wake(&self) -> Option<i64> {
        self.timers.peek().map(|Reverse((at, _))| *at)
    }

    /// Whether a shard stands in the ready queue, so that `take` may give something.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// How many things have become ready since the last call: so many waiters are worth waking.
    pub fn take_woken(&mut self) -> usize {
        std::mem::take(&mut self.woken)
    }

    // ---- trace and invariants ----

    /// Begins to keep a trace of all shards.
    pub fn enable_trace(&mut self) {
        self.trace.get_or_insert_default();
        for place in self.places.values_mut() {
            place.shard.enable_trace();
        }
    }

    /// The trace since the last call, each event with the handle of its shard.
    pub fn drain_trace(&mut self) -> Vec<(u32, Event)> {
        self.trace.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Verifies the invariants of every shard and of the budget, counting everything anew.
    ///
    /// # Panics
    ///
    /// One of them is broken; the message begins with its number.
    pub fn check_invariants(&mut self) {
        let (mut held, mut reserved) = (0, 0);
        let (mut standing, mut unsaved) = (Counts::default(), BTreeSet::new());
        let mut running = vec![0; self.mappings.len()];
        let mut ready = vec![0_usize; self.mappings.len()];
        for (&handle, place) in &mut self.places {
            place.shard.check_invariants();
            let stats = place.shard.stats();
            held += stats.held_bytes;
            reserved += place.reserved.unwrap_or(0);
            standing.add(place.shard.standing());
            if stats.unsaved {
                unsaved.insert(handle);
            }
            running[place.mapping] += stats.in_flight;
            ready[place.mapping] += usize::from(self.ready.contains(&handle));
            let queues = [&self.ready, &self.mappings[place.mapping].waiting];
            let places: usize = queues
                .iter()
                .map(|queue| queue.iter().filter(|in_it| **in_it == handle).count())
                .sum();
            assert_eq!(
                places,
                usize::from(place.queued),
                "I11: a shard stands in one queue, or in none"
            );
            assert!(
                place.ready == place.shard.ready_count(),
                "I10: what is ready is counted after each step"
            );
            assert!(
                place.queued || !place.shard.is_ready(),
                "I11: a ready shard stands in a queue"
            );
            if let Some(wake) = place.shard.next_wake() {
                assert!(
                    place.timer.is_some_and(|timer| timer <= wake),
                    "I11: a waiting lane has a timer"
                );
            }
        }
        assert_eq!(
            (&standing, &unsaved),
            (&self.standing, &self.unsaved),
            "I10: how shards stand is counted"
        );
        assert_eq!(held, self.bytes, "I10: bytes held are those of the shards");
        assert_eq!(
            reserved, self.reserved,
            "I10: bytes reserved are those of the fetches"
        );
        for ((mapping, running), ready) in self.mappings.iter().zip(running).zip(ready) {
            assert_eq!(mapping.running, running, "I4: running batches are counted");
            let free = mapping.running_max.is_none_or(|max| running < max);
            assert!(
                !free || ready > 0 || mapping.waiting.is_empty(),
                "I11: shards wait for a cap only while it is reached"
            );
        }
    }
}
