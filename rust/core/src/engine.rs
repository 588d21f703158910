//! Many shards under one budget: which may fetch, which is ready, what time wakes next.
//!
//! Still pure: no lock, no clock, no thread. A binding adds the lock and the wake-up around it. No call looks at shards that it does not
//! concern, apart from `handles`, `reset` and `check_invariants`; timers are a heap. Owns the budget half of invariant I10.
//!
//! Ready shards stand in a queue: first ready, first served, one batch at a time. Only where batches take no time at all, as an empty
//! function's do, a shard with several ready lanes has up to ten in a row, since what is known of it is in the processor's caches then. Within
//! a shard the lane with the oldest record goes first. A mapping may be capped, so that a slow function cannot take every thread.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;

use crate::batch::{Batch, HANDLE_MAX, Outcome, Ticket};
use crate::buffer::{LANES_MAX, to_usize};
use crate::checkpoint::Checkpoint;
use crate::config::{MappingConfig, ShardConfig};
use crate::discard::{Confirmation, DiscardId};
use crate::error::UsageError;
use crate::filter::{Sieve, Sifted};
use crate::page::Page;
use crate::shard::{Finished, InFlight, Offered, Shard, Snapshot, Spare, Standing, Task, Want};
use crate::stats::ShardStats;
use crate::trace::Event;
use crate::window::ReturnedState;

/// Bytes of pages that an engine holds by default.
pub const BUDGET_BYTES: usize = 256 << 20;
/// What a first fetch is expected to bring; later ones are expected to bring what the shard's pages bring on average.
const PAGE_BYTES_EXPECTED: usize = 64 << 10;

/// What [`Engine::take`] gives.
#[derive(Debug, Clone)]
pub enum Taken<T = Batch> {
    /// Do this.
    Task(Task<T>),
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
    /// Whether it stands in `Engine::unsaved`.
    listed: bool,
}

/// The shards with their handles, which grow.
#[derive(Debug, Default)]
struct Places(Vec<(u32, Box<Place>)>);

impl Places {
    /// Where a shard stands.
    fn find(&self, shard: u32) -> Result<usize, UsageError> {
        // As many as handles lie between stand before it at the most, and so many where none of them was removed.
        let first = self.0.first().map_or(u32::MAX, |(first, _)| *first);
        let most = to_usize(shard.saturating_sub(first));
        match self.0.get(most) {
            Some((found, _)) if *found == shard => Ok(most),
            _ => self.0[..most.min(self.0.len())]
                .binary_search_by_key(&shard, |(handle, _)| *handle)
                .map_err(|_| UsageError::NoShard { shard }),
        }
    }

    fn get_mut(&mut self, shard: u32) -> Result<&mut Place, UsageError> {
        let at = self.find(shard)?;
        Ok(&mut self.0[at].1)
    }
}

#[derive(Debug, Default)]
struct Mapping {
    shards: usize,
    running: usize,
    running_max: Option<usize>,
    /// Ready shards that wait for a batch of the mapping to finish.
    waiting: VecDeque<u32>,
}

/// The batches that were handed out last, all of one shard, and when the last of them was.
#[derive(Debug, Default)]
struct Turn {
    shard: u32,
    batches: usize,
    at: i64,
}

impl Turn {
    fn next(&mut self, shard: u32, at: i64) {
        if self.shard != shard {
            (self.shard, self.batches) = (shard, 0);
        }
        self.batches += 1;
        self.at = at;
    }

    /// Whether the shard, which had the last batch, may have the next one too.
    fn may_go_on(&self, shard: u32, now: i64) -> bool {
        (self.shard, self.at) == (shard, now) && self.batches < LANES_MAX
    }
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
    /// Handles are never used again.
    places: Places,
    /// The handle of the next shard.
    next: u32,
    standing: Counts,
    /// Shards that may have something that no saved checkpoint has: all that do, and such as did at the last look.
    unsaved: Vec<u32>,
    /// Bytes held and reserved.
    bytes: usize,
    reserved: usize,
    names: HashMap<(String, String), u32>,
    mappings: Vec<Mapping>,
    mapping_names: HashMap<String, usize>,
    /// Places in `mappings` of mappings that have no shard any more.
    free_mappings: Vec<usize>,
    ready: VecDeque<u32>,
    turn: Turn,
    spare: Spare,
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
            places: Places::default(),
            next: 0,
            standing: Counts::default(),
            unsaved: Vec::new(),
            bytes: 0,
            reserved: 0,
            names: HashMap::new(),
            mappings: Vec::new(),
            mapping_names: HashMap::new(),
            free_mappings: Vec::new(),
            ready: VecDeque::new(),
            turn: Turn::default(),
            spare: Spare::default(),
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
            listed: false,
        };
        self.places.0.push((handle, Box::new(place)));
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

    /// Runs one call of a shard, and brings bytes, ready queue, timers and trace up to date after it.
    fn step<T>(&mut self, shard: u32, call: impl FnOnce(&mut Place) -> T) -> Result<T, UsageError> {
        let at = self.places.find(shard)?;
        Ok(self.step_at(at, call))
    }

    /// The same for the shard that stands at a place.
    fn step_at<T>(&mut self, at: usize, call: impl FnOnce(&mut Place) -> T) -> T {
        let result = call(&mut self.places.0[at].1);
        self.follow(at);
        result
    }

    /// Brings bytes, ready queue, timers and trace up to date after a call of the shard that stands at a place.
    fn follow(&mut self, at: usize) {
        let (shard, place) = &mut self.places.0[at];
        let (held, ready) = (place.shard.held_bytes(), place.shard.ready_count());
        let counted = std::mem::replace(&mut place.counted, held);
        self.bytes = self.bytes - counted + held;
        let before = std::mem::replace(&mut place.ready, ready);
        self.woken += ready.saturating_sub(before);
        if ready > 0 && !place.queued {
            place.queued = true;
            self.ready.push_back(*shard);
        }
        if let Some(wake) = place.shard.next_wake()
            && place.timer.is_none_or(|timer| wake < timer)
        {
            place.timer = Some(wake);
            self.timers.push(Reverse((wake, *shard)));
        }
        let stands = place.shard.standing();
        if stands != place.standing {
            self.standing.take_off(place.standing);
            self.standing.add(stands);
            place.standing = stands;
        }
        if stands.unsaved && !place.listed {
            place.listed = true;
            self.unsaved.push(*shard);
        }
        if let Some(trace) = &mut self.trace {
            let events = place.shard.drain_trace().into_iter();
            trace.extend(events.map(|event| (*shard, event)));
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
                && own + expected <= free.max(self.budget_bytes / self.places.0.len().max(1)))
    }

    /// Leave to fetch a page of a shard, or None: one is being fetched, the shard is not running, or there is no room.
    ///
    /// # Errors
    ///
    /// There is no such shard.
    pub fn wants(&mut self, shard: u32, now: i64) -> Result<Option<Want>, UsageError> {
        let at = self.places.find(shard)?;
        let place = &self.places.0[at].1;
        if place.reserved.is_some() {
            return Ok(None);
        }
        let expected = place.page_bytes;
        let room = self.has_room(place, expected);
        let want = self.step_at(at, |place| {
            let want = place.shard.wants(room, now);
            place.reserved = want.as_ref().map(|_| expected);
            want
        });
        if want.is_some() {
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
        let reserved = self.step(shard, |place| {
            place.shard.fetch_failed();
            place.reserved.take()
        })?;
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
        Ok(self.places.get_mut(shard)?.shard.sieve())
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
        let (bytes, empty) = (page.held_bytes(), page.is_empty());
        let at = self.places.find(shard)?;
        let place = &self.places.0[at].1;
        if place.reserved.is_none() && !empty && !self.has_room(place, bytes) {
            self.step_at(at, |place| place.shard.starve(now));
            return Ok(Offered {
                accepted: false,
                records: 0,
                duplicates: 0,
                complete: 0,
                filtered: 0,
            });
        }
        let place = &mut self.places.0[at].1;
        let spare = &mut self.spare;
        let offered = place.shard.offer(page, sifted, millis_behind, now, spare);
        if offered.is_ok() {
            if !empty {
                place.page_bytes = (3 * place.page_bytes + bytes) / 4;
            }
            self.reserved -= place.reserved.take().unwrap_or(0);
        }
        self.follow(at);
        offered
    }

    // ---- batches ----

    /// The next thing to do, or when to ask again. Never waits.
    #[expect(
        clippy::redundant_closure_for_method_calls,
        reason = "the method itself is of one lifetime"
    )]
    pub fn take(&mut self, now: i64) -> Taken {
        self.take_with(now, |in_flight| in_flight.batch())
    }

    /// [`Self::take`] with what `read` makes of a batch in its place.
    ///
    /// For those who need its records only at once: a batch that is not shared counts no references and takes no lock. What else is
    /// needed of it while it is in flight, [`Self::batch`] gives.
    /// Where `read` panics, the batch stays in flight.
    ///
    /// ```
    /// # use streamcore::{CheckpointKey, Engine, MappingConfig, MappingIdentity, Outcome, PageBuilder, ShardConfig, Taken, Task};
    /// # let key = CheckpointKey { mapping_uuid: "m".into(), stream_identity: "s".into(), shard_id: "shardId-0".into() };
    /// # let mut engine = Engine::default();
    /// # let config = ShardConfig::new(key, MappingIdentity::default(), MappingConfig::default());
    /// # let shard = engine.add_shard(config, None)?;
    /// # let mut builder = PageBuilder::new();
    /// # builder.push("ann", b"1", 0, Some("7"))?;
    /// # builder.push("bob", b"2", 0, Some("9"))?;
    /// # engine.offer(shard, builder.finish(), None, 0)?;
    /// let taken = engine.take_with(0, |in_flight| {
    ///     let keys: Vec<_> = in_flight.records().map(|record| record.key().into_owned()).collect();
    ///     (in_flight.ticket(), keys)
    /// });
    /// let Taken::Task(Task::Run((ticket, keys))) = taken else { panic!("a batch is ready") };
    /// assert_eq!(keys, ["ann", "bob"]);
    /// assert_eq!(engine.batch(ticket).map(|batch| batch.len()), Some(2));
    /// engine.finish(ticket, Outcome::Success, None, 0)?;
    /// assert!(engine.batch(ticket).is_none());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn take_with<T>(&mut self, now: i64, read: impl FnOnce(InFlight<'_>) -> T) -> Taken<T> {
        while let Some(Reverse((at, shard))) = self.timers.peek().copied() {
            if at > now {
                break;
            }
            self.timers.pop();
            if let Ok(place) = self.places.find(shard)
                && self.places.0[place].1.timer == Some(at)
            {
                self.step_at(place, |place| {
                    place.timer = None;
                    place.shard.tick(now);
                });
            }
        }
        while let Some(shard) = self.ready.pop_front() {
            let Ok(at) = self.places.find(shard) else {
                continue;
            };
            let place = &mut self.places.0[at].1;
            let mapping = place.mapping;
            let group = &mut self.mappings[mapping];
            if group.running_max.is_some_and(|max| group.running >= max)
                && !place.shard.has_discards()
            {
                group.waiting.push_back(shard);
                continue;
            }
            place.queued = false;
            self.turn.next(shard, now);
            let task = place.shard.take(now);
            self.follow(at);
            if let Some(Task::Run(lane)) = task {
                self.mappings[mapping].running += 1;
                let shard = &mut self.places.0[at].1.shard;
                let in_flight = InFlight::new(shard, lane, &mut self.spare);
                return Taken::Task(Task::Run(read(in_flight)));
            }
            // It has not used the place that it was let go for.
            self.release_waiting(mapping);
            if let Some(Task::Deliver(discard)) = task {
                return Taken::Task(Task::Deliver(discard));
            }
        }
        Taken::Wait(self.next_wake())
    }

    /// The batch in flight that a ticket names; None where it is finished, or its shard is gone.
    pub fn batch(&mut self, ticket: Ticket) -> Option<Batch> {
        let place = self.places.get_mut(ticket.shard()).ok()?;
        place.shard.batch(ticket, &mut self.spare)
    }

    /// Says how a batch went. With a tumbling window, `returned` is the state that the function returned: it takes the place of the old
    /// one where records are complete, and is let go where none is. Without one the old state stays.
    ///
    /// # Errors
    ///
    /// The batch is not in flight, the outcome names a record that it does not have, or window state was given without a window or is
    /// larger than a closing call can hold. A ticket of a shard that is gone is no error: it is reported as stale.
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
        let Ok(at) = self.places.find(shard) else {
            return Ok(Finished {
                stale: true,
                discards: Vec::new(),
            });
        };
        let place = &mut self.places.0[at].1;
        let was_queued = place.queued;
        let spare = &mut self.spare;
        let finished = place.shard.finish(ticket, outcome, returned, now, spare);
        self.follow(at);
        if finished.is_ok() {
            let mapping = self.places.0[at].1.mapping;
            self.mappings[mapping].running -= 1;
            // A shard that waits for the cap of the mapping was ready before.
            if was_queued && self.mappings[mapping].waiting.is_empty() {
                self.stay(at, now);
            }
            self.release_waiting(mapping);
        }
        finished
    }

    /// Lets a shard that still has a ready lane be the next one again, where its batch took no time and no other shard became ready
    /// meanwhile.
    fn stay(&mut self, at: usize, now: i64) {
        let (shard, place) = &self.places.0[at];
        let stays = self.ready.len() > 1
            && self.ready.back() == Some(shard)
            && self.turn.may_go_on(*shard, now)
            && place.shard.in_flight() == 0;
        if stays {
            self.ready.rotate_right(1);
        }
    }

    /// Puts the shards that waited for their mapping's cap back into the ready queue, as many as may run: to its front, since they were
    /// ready before those that stand there.
    fn release_waiting(&mut self, mapping: usize) {
        let group = &mut self.mappings[mapping];
        if group.waiting.is_empty() {
            return;
        }
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
        Ok(self.places.get_mut(shard)?.shard.checkpoint())
    }

    /// Snapshots of all shards that have changed, with their handles.
    pub fn checkpoints(&mut self) -> Vec<(u32, Snapshot)> {
        self.unsaved.sort_unstable();
        let mut snapshots = Vec::with_capacity(self.unsaved.len());
        let places = &mut self.places;
        self.unsaved.retain(|shard| {
            let Ok(place) = places.get_mut(*shard) else {
                return false;
            };
            let snapshot = place.shard.checkpoint();
            place.listed = snapshot.is_some();
            snapshots.extend(snapshot.map(|snapshot| (*shard, snapshot)));
            place.listed
        });
        snapshots
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

    /// Says that the source has no further record for a shard, ever.
    ///
    /// # Errors
    ///
    /// There is no such shard.
    pub fn close(&mut self, shard: u32, now: i64) -> Result<(), UsageError> {
        self.step(shard, |place| place.shard.close(now))
    }

    /// Hands out and fetches nothing more of a shard; batches in flight finish.
    ///
    /// # Errors
    ///
    /// There is no such shard.
    pub fn pause(&mut self, shard: u32) -> Result<(), UsageError> {
        self.step(shard, |place| place.shard.pause())
    }

    /// Goes on with a shard after a pause or a drain.
    ///
    /// # Errors
    ///
    /// There is no such shard.
    pub fn resume(&mut self, shard: u32, now: i64) -> Result<(), UsageError> {
        self.step(shard, |place| place.shard.resume(now))
    }

    /// Fetches nothing more of a shard, and hands out what is held without waiting for batching windows.
    ///
    /// # Errors
    ///
    /// There is no such shard.
    pub fn drain(&mut self, shard: u32, now: i64) -> Result<(), UsageError> {
        self.step(shard, |place| place.shard.drain(now))
    }

    /// Changes the parameters of a shard's mapping. Buffered records are put into the lanes anew; their attempts are forgotten.
    ///
    /// # Errors
    ///
    /// There is no such shard, a parameter is outside its range, or a batch is in flight or a discard unconfirmed: pause or drain first.
    pub fn update(
        &mut self,
        shard: u32,
        mapping: MappingConfig,
        now: i64,
    ) -> Result<(), UsageError> {
        self.step(shard, |place| place.shard.update(mapping, now))?
    }

    /// Takes a shard out and returns its configuration, so that the caller can say when what is attached to it goes. Its batches in flight
    /// become stale; what was not saved is handed out again when it is added again.
    ///
    /// # Errors
    ///
    /// There is no such shard.
    pub fn remove(&mut self, shard: u32) -> Result<ShardConfig, UsageError> {
        let at = self.places.find(shard)?;
        let (_, place) = self.places.0.remove(at);
        let in_flight = place.shard.in_flight();
        let config = place.shard.config().clone();
        let key = &config.key;
        let name = (key.mapping_uuid.clone(), key.shard_id.clone());
        self.names.remove(&name);
        // They would keep what is attached to the shard.
        self.spare.forget_batches();
        if place.listed {
            self.unsaved.retain(|listed| *listed != shard);
        }
        self.standing.take_off(place.standing);
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
        Ok(config)
    }

    /// Takes every shard out and returns their configurations, see [`Self::remove`].
    pub fn reset(&mut self) -> Vec<ShardConfig> {
        // The last one first, so that no other moves.
        let handles = self.handles().into_iter().rev();
        handles
            .filter_map(|handle| self.remove(handle).ok())
            .collect()
    }

    /// The handles of all shards.
    #[must_use]
    pub fn handles(&self) -> Vec<u32> {
        self.places.0.iter().map(|(handle, _)| *handle).collect()
    }

    /// A shard's state and counts.
    ///
    /// # Errors
    ///
    /// There is no such shard.
    pub fn stats(&mut self, shard: u32) -> Result<ShardStats, UsageError> {
        Ok(self.places.get_mut(shard)?.shard.stats())
    }

    /// A shard's configuration.
    ///
    /// # Errors
    ///
    /// There is no such shard.
    pub fn config(&mut self, shard: u32) -> Result<&ShardConfig, UsageError> {
        Ok(self.places.get_mut(shard)?.shard.config())
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
        for (_, place) in &mut self.places.0 {
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
        let mut standing = Counts::default();
        let mut running = vec![0; self.mappings.len()];
        let mut ready = vec![0_usize; self.mappings.len()];
        for (handle, place) in &mut self.places.0 {
            let handle = *handle;
            place.shard.check_invariants();
            let stats = place.shard.stats();
            held += stats.held_bytes;
            reserved += place.reserved.unwrap_or(0);
            standing.add(place.shard.standing());
            assert!(
                place.listed || !stats.unsaved,
                "I10: what is to be saved is listed"
            );
            let listed = self.unsaved.iter().filter(|in_it| **in_it == handle);
            assert_eq!(
                listed.count(),
                usize::from(place.listed),
                "I10: a shard to be saved is listed once"
            );
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
        assert_eq!(standing, self.standing, "I10: how shards stand is counted");
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
