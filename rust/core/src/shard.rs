//! The engine of one shard: feed it, ask what is ready, say how it went.
//!
//! It knows the other modules and none of them knows it: [`buffer`](crate::buffer) holds pages, a lane has a queue
//! ([`assemble`](crate::assemble)) and a batch in work ([`retry`](crate::retry)), and [`marks`](crate::marks) says how far it is.
//! Everything that is not determined by its input is an argument: the time, pages, outcomes, the seed.
//!
//! The calls of intake, checkpoint and life cycle stand here; `dispatch` hands out and finishes, `counting` counts that, `windows` opens and
//! closes tumbling windows, `in_flight` says what a batch in flight is, `relief` frees what stuck lanes keep, `invariants` counts anew.
//!
//! Owns invariants I1 (every record ends as succeeded, discarded or expired), I3 and I4 (order and one batch a lane).

mod counting;
mod dispatch;
mod heads;
mod in_flight;
mod invariants;
mod relief;
mod windows;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use self::counting::Sent;
use self::heads::Heads;
pub use self::in_flight::InFlight;
use crate::assemble::{LaneQueue, Limits};
use crate::batch::{Batch, ShardInfo};
use crate::buffer::{Buffer, NO_LANE, Run, to_usize};
use crate::chance::Chance;
use crate::checkpoint::{Checkpoint, LaneTag};
use crate::config::{FETCH_RECORDS_MAX, MappingConfig, SPAN_MAX, ShardConfig};
use crate::discard::Discard;
use crate::error::UsageError;
use crate::event::{EventIdentity, EventTemplate};
use crate::filter::{Sieve, Sifted};
use crate::lanes::{LANE_FUNCTION_VERSION, lane};
use crate::marks::{FormerLanes, LaneMarks};
use crate::page::Page;
use crate::position::{Position, SequenceNumber, compare_sequences};
use crate::retry::Work;
use crate::stats::{Age, Counters, Distributions, LaneStats, ShardState, ShardStats};
use crate::trace::Event;
use crate::window::WindowState;

/// What became of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offered {
    /// False where there is no room; nothing was taken in.
    pub accepted: bool,
    /// Records taken in, those included that are already complete or filtered out.
    pub records: u32,
    /// Records dropped because their position had been taken in before.
    pub duplicates: u32,
    /// Records that the restored checkpoint knows as complete.
    pub complete: u32,
    /// Records that no filter of the mapping let pass; they are complete too.
    pub filtered: u32,
}

/// Leave to fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Want {
    /// The last record taken in, or the watermark of the checkpoint.
    pub after: Option<Position>,
    /// The most records to ask for.
    pub limit: u32,
}

/// What [`Engine::take`](crate::Engine::take) gives: something to run, or something to deliver.
#[derive(Debug, Clone)]
pub enum Task<T = Batch> {
    /// Invoke the function with it, then call `finish`.
    Run(T),
    /// Deliver it, then call `confirm`.
    Deliver(Box<Discard>),
}

/// What [`Engine::finish`](crate::Engine::finish) led to.
#[derive(Debug, Clone, Default)]
pub struct Finished {
    /// The ticket is of a shard that is gone; nothing was changed.
    pub stale: bool,
    /// What was given up; deliver each, then call `confirm`.
    pub discards: Vec<Discard>,
}

/// What an engine counts of a shard.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    /// Something that was taken in is not done: a record, a discard, a closing call.
    pub(crate) busy: bool,
    /// Something is done that no saved checkpoint has.
    pub(crate) unsaved: bool,
    /// The source has no further record, and all is done.
    pub(crate) ended: bool,
}

impl Standing {
    /// Whether the shard's end is to be saved.
    pub(crate) fn is_end(self) -> bool {
        self.ended && self.unsaved
    }
}

/// One consistent snapshot, to be stored and then confirmed with [`Engine::saved`](crate::Engine::saved).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Grows with every change.
    pub version: u64,
    /// What to store.
    pub checkpoint: Checkpoint,
    /// Records of the shard that have expired until then, see [`Counters::expired`].
    pub expired: u64,
}

/// What the caller wants of the shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Running,
    Paused,
    Draining,
}

#[derive(Debug)]
struct Lane {
    queue: LaneQueue,
    work: Option<Work>,
    /// Its batch in flight, where it is shared with whoever runs it.
    shared: Option<Batch>,
    /// When its last batch ended; the batching window does not start before.
    last_completion: i64,
    /// What is to be known of its batch in flight when it comes to an end.
    sent: Sent,
    marks: LaneMarks,
    /// How many batches of the shard had ended when it was handed a fresh batch or completed records last.
    moved_on: u64,
}

impl Lane {
    fn new() -> Self {
        Self {
            queue: LaneQueue::default(),
            work: None,
            shared: None,
            last_completion: i64::MIN,
            sent: Sent::default(),
            marks: LaneMarks::default(),
            moved_on: 0,
        }
    }

    /// The run that begins with the first incomplete record.
    fn front(&self) -> Option<&Run> {
        self.work
            .as_ref()
            .and_then(Work::front)
            .or_else(|| self.queue.front())
    }

    fn runs(&self) -> impl Iterator<Item = &Run> {
        self.work
            .iter()
            .flat_map(Work::runs)
            .chain(self.queue.runs())
    }
}

#[derive(Debug)]
struct Unconfirmed {
    lane: u8,
    bytes: usize,
}

/// Memory that a step of a shard needs for a while, kept for the next step of any shard: what was used last is in the processor's caches.
#[derive(Debug, Default)]
pub(crate) struct Spare {
    /// The lane of each record of the page that is taken in.
    lanes: Vec<u8>,
    /// Finished batches that nobody has.
    batches: Vec<Batch>,
}

/// The most finished batches that are kept.
const SPARE_BATCHES_MAX: usize = 64;

impl Spare {
    fn keep(&mut self, finished: Option<Batch>) {
        if self.batches.len() < SPARE_BATCHES_MAX
            && let Some(spare) = finished.and_then(Batch::into_spare)
        {
            self.batches.push(spare);
        }
    }

    /// Forgets the batches, and with them the shards that they were of.
    pub(crate) fn forget_batches(&mut self) {
        self.batches.clear();
    }
}

/// One shard; see [`Engine`](crate::Engine) for what the calls mean.
#[derive(Debug)]
pub(crate) struct Shard {
    info: Arc<ShardInfo>,
    chance: Chance,
    mode: Mode,
    closed: bool,
    /// No room to fetch: what waits for a batching window is handed out.
    starved: bool,
    lanes: Vec<Lane>,
    heads: Heads,
    buffer: Buffer,
    former: FormerLanes,
    /// The highest watermark known; `watermark()` moves it on.
    watermark: Option<Position>,
    last_taken_in: Option<Position>,
    next_ordinal: u64,
    /// The largest arrival time handed out.
    replay_now: i64,
    millis_behind: Option<i64>,
    /// The last tumbling window as the function knows it; the checkpoint has the one that belongs to the lane's mark.
    window: Option<Arc<WindowState>>,
    /// Since when the source has said without a break that it is at its tip.
    tip_since: Option<i64>,
    /// A fetch is under way.
    fetching: bool,
    /// When the last records were taken in.
    last_records_at: i64,
    unconfirmed: BTreeMap<u64, Unconfirmed>,
    unconfirmed_bytes: usize,
    outbox: VecDeque<Discard>,
    next_serial: u64,
    /// Batches whose outcome has come.
    batches_ended: u64,
    /// When relief that is under way goes on by itself.
    relief_at: Option<i64>,
    /// Changes that a checkpoint would show, and how many of them the store has.
    changed: u64,
    saved: u64,
    counters: Counters,
    distributions: Distributions,
    /// The age of the last record of the batch handed out last, and of the one that came to an end last.
    sent: Option<Age>,
    finished: Option<Age>,
    trace: Option<Vec<Event>>,
}

impl Shard {
    /// Makes a shard that goes on from a checkpoint, or begins anew.
    ///
    /// `handle` stands in tickets; [`Engine`](crate::Engine) gives each shard another.
    ///
    /// # Errors
    ///
    /// A parameter is outside its range, or the checkpoint is of another shard.
    pub(crate) fn new(
        handle: u32,
        mut config: ShardConfig,
        checkpoint: Option<Checkpoint>,
    ) -> Result<Self, UsageError> {
        config.mapping.validate()?;
        let fresh = checkpoint.is_none();
        let restored = match checkpoint {
            Some(checkpoint) => {
                checkpoint.require_key(&config.key)?;
                checkpoint
            }
            None => Checkpoint::fresh(Arc::clone(&config.key), config.start),
        };
        config.start = restored.start;
        let factor = config.mapping.parallelization_factor;
        let chance = Chance::new(
            config.seed,
            &format!("{}/{}", config.key.mapping_uuid, config.key.shard_id),
        );
        let info = Self::info(handle, config);
        let window = restored.window;
        let mut lanes: Vec<Lane> = (0..factor).map(|_| Lane::new()).collect();
        lanes[0].marks.complete(None, || None, window.clone());
        Ok(Self {
            info,
            chance,
            mode: Mode::Running,
            closed: restored.ended,
            starved: false,
            heads: Heads::new(lanes.len()),
            lanes,
            buffer: Buffer::new(),
            former: FormerLanes::new(restored.lanes.into_iter().chain(restored.former)),
            last_taken_in: restored.watermark.clone(),
            watermark: restored.watermark,
            next_ordinal: 0,
            replay_now: i64::MIN,
            millis_behind: None,
            window,
            tip_since: None,
            fetching: false,
            last_records_at: i64::MIN,
            unconfirmed: BTreeMap::new(),
            unconfirmed_bytes: 0,
            outbox: VecDeque::new(),
            next_serial: 0,
            batches_ended: 0,
            relief_at: None,
            changed: u64::from(fresh),
            saved: 0,
            counters: Counters::default(),
            distributions: Distributions::default(),
            sent: None,
            finished: None,
            trace: None,
        })
    }

    fn info(shard: u32, config: ShardConfig) -> Arc<ShardInfo> {
        let template = EventTemplate::new(
            &EventIdentity {
                shard_id: config.key.shard_id.clone(),
                event_source_arn: config.identity.event_source_arn.clone(),
                invoke_identity_arn: config.identity.execution_role_arn.clone(),
                aws_region: config.identity.aws_region.clone(),
            },
            config.format,
        );
        Arc::new(ShardInfo {
            shard,
            config,
            template,
        })
    }

    fn limits(&self) -> Limits {
        Limits {
            batch_size: self.mapping().batch_size,
            payload_bytes_max: self.mapping().payload_bytes_max,
            record_bytes: self.info.template.record_bytes(),
            boundary: self.boundary(),
        }
    }

    fn mapping(&self) -> &MappingConfig {
        &self.info.config.mapping
    }

    /// The shard's configuration.
    #[must_use]
    pub(crate) fn config(&self) -> &ShardConfig {
        &self.info.config
    }

    // ---- intake ----

    /// Leave to fetch, given `room`: whether the budget has room for another page. Refusing it closes open batches at once.
    pub(crate) fn wants(&mut self, room: bool, now: i64) -> Option<Want> {
        if self.mode != Mode::Running || self.closed {
            return None;
        }
        let span_left = SPAN_MAX.saturating_sub(self.span());
        let limit = u32::try_from(span_left)
            .unwrap_or(u32::MAX)
            .min(FETCH_RECORDS_MAX);
        if !room || limit == 0 {
            self.starve(now);
            return None;
        }
        self.starved = false;
        self.fetching = true;
        self.refresh_window(now);
        Some(Want {
            after: self.last_taken_in.clone(),
            limit,
        })
    }

    /// Says that nothing more can be fetched for now: lanes stop to wait for more records.
    pub(crate) fn starve(&mut self, now: i64) {
        self.starved = true;
        self.leave_tip();
        self.refresh_waiting(now);
    }

    /// What the shard's records go through; None where the mapping has no filters.
    #[must_use]
    pub(crate) fn sieve(&self) -> Option<Sieve> {
        Sieve::of(&self.info)
    }

    /// A fetch brought nothing, not even an empty page: what the source has at its tip is not known any more.
    pub(crate) fn fetch_failed(&mut self) {
        self.fetching = false;
        self.leave_tip();
        self.after_step();
    }

    /// Takes a page in, whole or not at all. Records at or below the last position taken in are dropped and counted.
    ///
    /// `sifted` says which records pass the filters, where [`Self::sieve`] has judged the page already; else they are judged here.
    ///
    /// # Errors
    ///
    /// The shard is closed, or no sequence number is left to assign.
    pub(crate) fn offer(
        &mut self,
        mut page: Arc<Page>,
        sifted: Option<Sifted>,
        millis_behind: Option<i64>,
        now: i64,
        spare: &mut Spare,
    ) -> Result<Offered, UsageError> {
        if self.closed && !page.is_empty() {
            return Err(UsageError::Closed);
        }
        if page.format() != self.info.config.format && !page.is_empty() {
            return Err(UsageError::OtherFormat {
                expected: self.info.config.format,
                found: page.format(),
            });
        }
        if page.has_unassigned() {
            let after = self.highest_known().cloned();
            Arc::make_mut(&mut page)
                .assign_sequences(after.as_ref())
                .map_err(|_| UsageError::NoSuccessor {
                    after: after.map_or_else(String::new, |sequence| sequence.as_str().to_owned()),
                })?;
        }
        self.millis_behind = millis_behind;
        let sifted = sifted.or_else(|| self.sieve().map(|sieve| sieve.sift(&page)));
        let (page, sifted, duplicates) = self.without_duplicates(page, sifted);
        self.fetching = false;
        self.tip_since = (millis_behind == Some(0)).then(|| self.tip_since.unwrap_or(now));
        let records = u32::try_from(page.len()).expect("a page has less than 2^32 records");
        self.counters.duplicates += u64::from(duplicates);
        let (mut complete, mut filtered) = (0, 0);
        if records > 0 {
            (complete, filtered) = self.sort_in(page, sifted.as_ref(), now, &mut spare.lanes);
            self.last_records_at = now;
            self.counters.records += u64::from(records);
            self.counters.already_complete += u64::from(complete);
            self.counters.filtered += u64::from(filtered);
            self.changed += u64::from(complete + filtered > 0);
        }
        if records > 0 || duplicates > 0 {
            self.note(|| Event::Offered {
                records,
                duplicates,
                complete,
                filtered,
            });
        }
        self.refresh_window(now);
        self.relieve(now);
        self.after_step();
        Ok(Offered {
            accepted: true,
            records,
            duplicates,
            complete,
            filtered,
        })
    }

    /// The largest sequence number that any record taken in, or any mark of an earlier run, has.
    fn highest_known(&self) -> Option<&SequenceNumber> {
        let known = self.last_taken_in.as_ref().max(self.former.highest());
        known.map(|position| &position.sequence)
    }

    fn without_duplicates(
        &self,
        page: Arc<Page>,
        sifted: Option<Sifted>,
    ) -> (Arc<Page>, Option<Sifted>, u32) {
        let nothing: (&[u8], u32) = (b"", 0);
        let mut highest = self.last_taken_in.as_ref().map_or(nothing, |position| {
            (position.sequence.as_str().as_bytes(), position.sub)
        });
        let is_above = |index, highest: (&[u8], u32)| {
            let (sequence, sub) = (page.sequence(index), page.sub(index));
            let order = compare_sequences(sequence, highest.0);
            order.then(sub.cmp(&highest.1)).is_gt() || highest.0.is_empty()
        };
        // As pages come from a stream: nothing of it was there before.
        if page.is_empty() || page.is_ascending() && is_above(0, highest) {
            return (page, sifted, 0);
        }
        let mut fresh: Vec<u32> = Vec::new();
        let mut dropped: u32 = 0;
        for (index, at) in (0..page.len()).zip(0_u32..) {
            if is_above(index, highest) {
                highest = (page.sequence(index), page.sub(index));
                if dropped > 0 {
                    fresh.push(at);
                }
            } else {
                if dropped == 0 {
                    fresh.extend(0..at);
                }
                dropped += 1;
            }
        }
        if dropped == 0 {
            return (page, sifted, 0);
        }
        let sifted = sifted.map(|sifted| sifted.compact(&fresh));
        (Arc::new(page.compact(&fresh)), sifted, dropped)
    }

    /// Gives each record its lane. Returns how many were complete already, and how many of the others are filtered out.
    fn sort_in(
        &mut self,
        page: Arc<Page>,
        sifted: Option<&Sifted>,
        now: i64,
        lanes: &mut Vec<u8>,
    ) -> (u32, u32) {
        let factor = self.mapping().parallelization_factor;
        lanes.clear();
        let (mut complete, mut filtered) = (0, 0);
        lanes.extend((0..page.len()).map(|index| {
            let hash = page.key_hash(index);
            if !self.former.is_empty() {
                let (sequence, sub) = (page.sequence(index), page.sub(index));
                if self.former.has_completed(hash, sequence, sub) {
                    complete += 1;
                    return NO_LANE;
                }
            }
            if sifted.is_some_and(|sifted| !sifted.passes[index]) {
                filtered += 1;
                return NO_LANE;
            }
            lane(hash, factor)
        }));
        let last = page.position(page.len() - 1);
        let first_ordinal = self.next_ordinal;
        self.next_ordinal += u64::try_from(page.len()).expect("a page has less than 2^32 records");
        let before = self.last_taken_in.replace(last);
        let runs = self.buffer.insert(page, lanes, first_ordinal, before, now);
        for (index, run) in runs.into_iter().flatten().enumerate() {
            if run.len() > 0 {
                self.lanes[index].queue.push(run);
                if self.heads[index].first == u64::MAX {
                    let first = self.buffer.ordinal(run.slot, run.start);
                    self.heads.set_first(index, first);
                }
                if self.lanes[index].work.is_none() {
                    self.refresh(index, now);
                }
            }
        }
        (complete, filtered)
    }

    /// Says that the source has no further record for this shard, ever.
    pub(crate) fn close(&mut self, now: i64) {
        if !self.closed {
            self.closed = true;
            self.note(|| Event::Closed);
            self.refresh_waiting(now);
            self.refresh_window(now);
            // The end of a shard in which nothing is left must reach the store too: its children wait for that.
            self.changed += u64::from(self.is_ended());
            self.note_if_ended();
        }
        self.after_step();
    }

    // ---- checkpoint ----

    /// A snapshot, if anything has changed since the last one that was saved.
    pub(crate) fn checkpoint(&mut self) -> Option<Snapshot> {
        if self.changed == self.saved {
            return None;
        }
        let watermark = self.move_watermark();
        self.former.drop_passed(watermark.as_ref());
        let marks = self.lanes.iter().map(|lane| lane.marks.mark().cloned());
        let mut lanes = LaneTag {
            lane_function: LANE_FUNCTION_VERSION,
            marks: marks.collect(),
        };
        let former = self.former.beside(&mut lanes);
        let checkpoint = Checkpoint {
            key: Arc::clone(&self.info.config.key),
            start: self.info.config.start,
            watermark,
            lanes: Some(lanes),
            former,
            window: self.lanes[0].marks.window().cloned(),
            ended: self.is_ended(),
        };
        Some(Snapshot {
            version: self.changed,
            checkpoint,
            expired: self.counters.expired,
        })
    }

    /// The store has a snapshot of this version.
    pub(crate) fn saved(&mut self, version: u64) {
        self.saved = self.saved.max(version.min(self.changed));
        self.note(|| Event::Saved { version });
    }

    /// The first incomplete record of a lane is another now.
    fn find_first(&mut self, index: usize) {
        let front = self.lanes[index].front();
        let first = front.map_or(u64::MAX, |run| self.buffer.ordinal(run.slot, run.start));
        self.heads.set_first(index, first);
    }

    /// The record before the lowest incomplete one. Never goes back.
    fn move_watermark(&mut self) -> Option<Position> {
        let (first, oldest) = self.heads.oldest();
        let held = self.lanes.iter().filter_map(|lane| lane.marks.held_back());
        let position = match held.min_by_key(|(ordinal, _)| *ordinal) {
            Some((ordinal, before)) if ordinal <= first => before.cloned(),
            _ => match self.lanes[oldest].front() {
                Some(run) => self.buffer.predecessor(run.slot, run.start),
                None => self.last_taken_in.clone(),
            },
        };
        if position > self.watermark {
            self.watermark = position;
        }
        self.watermark.clone()
    }

    /// Records from the lowest incomplete one to the last taken in.
    #[must_use]
    pub(crate) fn span(&self) -> u64 {
        let held = self.lanes.iter().filter_map(|lane| lane.marks.held_back());
        let lowest = held
            .map(|(ordinal, _)| ordinal)
            .fold(self.heads.oldest().0, u64::min);
        self.next_ordinal.saturating_sub(lowest)
    }

    // ---- life cycle ----

    /// Hands out and fetches nothing more; batches in flight finish.
    pub(crate) fn pause(&mut self) {
        self.mode = Mode::Paused;
        self.leave_tip();
        self.note(|| Event::Paused);
    }

    /// Goes on after a pause or a drain.
    pub(crate) fn resume(&mut self, now: i64) {
        self.mode = Mode::Running;
        self.note(|| Event::Resumed);
        self.tick(now);
        self.after_step();
    }

    /// Fetches nothing more, and hands out what is held without waiting for batching windows.
    pub(crate) fn drain(&mut self, now: i64) {
        self.mode = Mode::Draining;
        self.leave_tip();
        self.note(|| Event::Draining);
        self.refresh_waiting(now);
        self.after_step();
    }

    /// See [`Engine::update`](crate::Engine::update).
    pub(crate) fn update(&mut self, mapping: MappingConfig, now: i64) -> Result<(), UsageError> {
        mapping.validate()?;
        let in_flight = self.in_flight();
        if in_flight > 0 || !self.unconfirmed.is_empty() {
            let unconfirmed = self.unconfirmed.len();
            return Err(UsageError::Busy {
                in_flight,
                unconfirmed,
            });
        }
        let factor = mapping.parallelization_factor;
        let live: Vec<Run> = self.lanes.iter().flat_map(Lane::runs).copied().collect();
        let last_completion = self.lanes.iter().map(|lane| lane.last_completion).max();
        self.former.push(
            self.lanes
                .iter()
                .map(|lane| lane.marks.mark().cloned())
                .collect(),
        );
        self.info = Self::info(
            self.info.shard,
            ShardConfig {
                mapping,
                ..self.info.config.clone()
            },
        );
        self.lanes = (0..factor).map(|_| Lane::new()).collect();
        self.heads = Heads::new(self.lanes.len());
        self.lanes[0]
            .marks
            .complete(None, || None, self.window.clone());
        self.relief_at = None;
        for runs in self.buffer.relane(&live, factor) {
            for (lane, run) in self.lanes.iter_mut().zip(runs) {
                if run.len() > 0 {
                    lane.queue.push(run);
                }
            }
        }
        for index in 0..self.lanes.len() {
            self.lanes[index].last_completion = last_completion.unwrap_or(i64::MIN);
            self.find_first(index);
            self.refresh(index, now);
        }
        self.changed += 1;
        self.note(|| Event::Updated {
            parallelization_factor: factor,
        });
        self.after_step();
        Ok(())
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.heads.in_flight()
    }

    fn is_idle(&self) -> bool {
        self.buffer.live() == 0 && self.unconfirmed.is_empty()
    }

    fn is_ended(&self) -> bool {
        self.closed && self.is_idle() && !self.has_open_window()
    }

    /// What an engine counts of its shards.
    pub(crate) fn standing(&self) -> Standing {
        Standing {
            busy: !self.is_idle() || self.is_closing_window(),
            unsaved: self.changed != self.saved,
            ended: self.is_ended(),
        }
    }

    /// Bytes of the pages held and of unconfirmed discards.
    #[must_use]
    pub(crate) fn held_bytes(&self) -> usize {
        self.buffer.bytes() + self.unconfirmed_bytes
    }

    /// The shard, at this moment.
    pub(crate) fn stats(&mut self) -> ShardStats {
        let watermark = self.move_watermark();
        let lanes = self.lanes.iter().zip(&self.heads);
        let lanes = lanes.map(|(lane, head)| LaneStats {
            state: head.state,
            records: lane.runs().map(|run| u64::from(run.len())).sum(),
            attempts: lane
                .work
                .as_ref()
                .and_then(Work::top)
                .map_or(0, |top| top.attempts),
            first_sequence_number: lane.front().map(|run| {
                let slot = self.buffer.slot(run.slot);
                let record = slot.leaf.page.record(to_usize(slot.index(run.start)));
                record.sequence().to_owned()
            }),
        });
        let state = match self.mode {
            _ if self.is_ended() => ShardState::Ended,
            Mode::Running => ShardState::Running,
            Mode::Paused => ShardState::Paused,
            Mode::Draining if self.is_idle() => ShardState::Drained,
            Mode::Draining => ShardState::Draining,
        };
        ShardStats {
            state,
            held_records: self.buffer.live(),
            held_bytes: self.held_bytes(),
            span: self.span(),
            in_flight: self.in_flight(),
            unconfirmed_discards: self.unconfirmed.len(),
            watermark,
            last_taken_in: self.last_taken_in.clone(),
            millis_behind: self.millis_behind,
            window: self.window_stats(),
            unsaved: self.changed != self.saved,
            sent: self.sent,
            finished: self.finished,
            counters: self.counters,
            distributions: self.distributions.clone(),
            lanes: lanes.collect(),
        }
    }

    // ---- trace ----

    /// Begins to keep a trace.
    pub(crate) fn enable_trace(&mut self) {
        self.trace.get_or_insert_default();
    }

    /// The trace since the last call.
    pub(crate) fn drain_trace(&mut self) -> Vec<Event> {
        self.trace.as_mut().map(std::mem::take).unwrap_or_default()
    }

    fn note(&mut self, event: impl FnOnce() -> Event) {
        if let Some(trace) = &mut self.trace {
            trace.push(event());
        }
    }

    fn note_if_ended(&mut self) {
        if self.trace.is_some() && self.is_ended() {
            self.note(|| Event::Ended);
        }
    }

    /// In debug builds every step ends with a look at the invariants.
    fn after_step(&mut self) {
        if cfg!(debug_assertions) {
            self.check_invariants();
        }
    }
}
