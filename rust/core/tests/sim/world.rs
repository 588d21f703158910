//! One seed: a source, a store, a function and a destination around one engine, each of them as bad as the options say.

use std::rc::Rc;

use streamcore::{
    Batch, Checkpoint, CheckpointKey, Confirmation, DiscardId, Engine, Event, MappingConfig,
    MappingIdentity, Outcome, Response, ShardConfig, ShardState, Taken, Task, Ticket, UsageError,
};

use super::log::{self, Log};
use super::options::{BEGIN_MS, Options};
use super::reach::{Fault, Reach};
use super::reference::{Known, Reference};
use super::rng::Rng;

/// What a seed has shown.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) reach: Reach,
    pub(crate) steps: u64,
    pub(crate) faults: u64,
    pub(crate) simulated_ms: i64,
    pub(crate) hash: u64,
}

#[derive(Debug)]
struct Flight {
    ticket: Ticket,
    records: Vec<usize>,
    number: u64,
}

#[derive(Debug)]
struct Stored {
    blob: Vec<u8>,
    known: Known,
}

#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "they are independent of each other"
)]
pub(crate) struct World {
    seed: u64,
    rng: Rng,
    options: Options,
    log: Rc<Log>,
    reference: Reference,
    engine: Engine,
    shard: u32,
    now: i64,
    runs: u64,
    in_flight: Vec<Flight>,
    /// Discards on their way, with the number of the step before which they do not arrive.
    deliveries: Vec<(DiscardId, u64)>,
    fetched: Option<std::ops::Range<usize>>,
    saving: Option<(u64, Stored)>,
    stored: Option<Stored>,
    old_tickets: Vec<Ticket>,
    old_discards: Vec<DiscardId>,
    paused: bool,
    draining: bool,
    closed: bool,
    ended: bool,
    page_bytes_max: usize,
    /// No more faults.
    kind: bool,
    whole_events: bool,
    reach: Reach,
    steps: u64,
    hash: Option<u64>,
    tell: bool,
}

fn shard_config(options: &Options, mapping: MappingConfig, seed: u64) -> ShardConfig {
    let key = CheckpointKey {
        mapping_uuid: "mapping".into(),
        stream_identity: "first".into(),
        shard_id: log::SHARD_ID.into(),
    };
    let identity = MappingIdentity {
        event_source_arn: log::STREAM_ARN.into(),
        function_arn: "arn:f".into(),
        execution_role_arn: log::ROLE_ARN.into(),
        aws_region: log::REGION.into(),
    };
    ShardConfig {
        retention_ms: options.retention_ms,
        clock: options.clock,
        sync_checkpoints: options.sync_checkpoints,
        seed,
        ..ShardConfig::new(key, identity, mapping)
    }
}

impl World {
    pub(crate) fn new(seed: u64, hash: bool, tell: bool) -> Self {
        let mut rng = Rng::new(seed);
        let options = Options::draw(&mut rng);
        let log = Rc::new(Log::draw(&options, &mut rng));
        if tell {
            println!("{options:#?}");
        }
        let mut engine = Engine::new(options.budget_bytes);
        engine.enable_trace();
        let config = shard_config(&options, options.mapping.clone(), seed);
        let shard = engine.add_shard(config, None).unwrap();
        Self {
            reference: Reference::new(Rc::clone(&log), &options),
            seed,
            rng,
            log,
            engine,
            shard,
            now: BEGIN_MS,
            runs: 1,
            in_flight: Vec::new(),
            deliveries: Vec::new(),
            fetched: None,
            saving: None,
            stored: None,
            old_tickets: Vec::new(),
            old_discards: Vec::new(),
            paused: false,
            draining: false,
            closed: false,
            ended: false,
            page_bytes_max: 0,
            kind: false,
            whole_events: seed.is_multiple_of(8),
            reach: Reach::default(),
            steps: 0,
            hash: hash.then_some(0xcbf2_9ce4_8422_2325),
            tell,
            options,
        }
    }

    pub(crate) fn run(mut self) -> Report {
        for _ in 0..self.options.steps {
            self.step();
        }
        self.be_kind();
        Report {
            steps: self.steps,
            faults: self.reach.faults(),
            reach: self.reach,
            simulated_ms: self.now - BEGIN_MS,
            hash: self.hash.unwrap_or(0),
        }
    }

    fn chance(&mut self, per_mille: u32) -> bool {
        !self.kind && self.rng.chance(per_mille)
    }

    fn hit(&mut self, fault: Fault) {
        self.reach.fault(fault);
        self.say(|| format!("! {fault:?}"));
    }

    fn say(&self, text: impl FnOnce() -> String) {
        if self.tell {
            println!("{:>8} {}", self.now - BEGIN_MS, text());
        }
    }

    // ---- steps ----

    fn step(&mut self) {
        let finish = self.options.finish_weight;
        // A crash is likelier while a save is under way.
        let crash = if self.saving.is_some() { 12 } else { 2 };
        let weights = [12, 22, finish, 6, 6, 8, 1, crash, 2];
        let mut dice = self.rng.below(weights.iter().sum());
        let choice = weights.iter().position(|weight| {
            let hit = dice < *weight;
            dice = dice.wrapping_sub(*weight);
            hit
        });
        match choice.unwrap() {
            0 => self.poll(),
            1 => {
                let _ = self.take();
            }
            2 => self.finish_one(),
            3 => self.confirm_one(),
            4 => self.save(),
            5 => self.pass_time(),
            6 => self.live(),
            7 if self.chance(self.options.crash * 8) => self.crash(),
            8 if self.chance(self.options.misuse * 8) => self.misuse(),
            _ => {}
        }
        self.after_step();
    }

    fn after_step(&mut self) {
        self.steps += 1;
        self.engine.check_invariants();
        let unconfirmed_and_pages = self.options.budget_bytes + self.page_bytes_max;
        // A budget is kept but for one page; discards that wait hold copies of records that were counted before.
        if self.reference.unconfirmed() == 0 {
            assert!(
                self.engine.held_bytes() <= unconfirmed_and_pages,
                "I10: the budget and one page"
            );
        }
    }

    /// Reads the trace of the last call, and compares it.
    fn observe(&mut self, batch: Option<&Batch>) -> Option<Vec<usize>> {
        let trace: Vec<Event> = self
            .engine
            .drain_trace()
            .into_iter()
            .map(|(_, event)| event)
            .collect();
        for event in &trace {
            self.reach.event(event);
            self.ended |= *event == Event::Ended;
            self.say(|| event.to_string());
            if let Some(hash) = &mut self.hash {
                for byte in event.to_string().bytes() {
                    *hash = (*hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
                }
            }
        }
        let (records, by_bytes) =
            self.reference
                .compare(&trace, batch, self.whole_events, self.now)?;
        if by_bytes {
            self.reach.fault(Fault::BatchFullByBytes);
        }
        Some(records)
    }

    // ---- source ----

    fn poll(&mut self) {
        if let Some(range) = self.fetched.take() {
            self.bring(range);
            return;
        }
        if self.chance(self.options.unasked) {
            self.offer_unasked();
            return;
        }
        let held = self.engine.held_bytes();
        let want = self.engine.wants(self.shard, self.now).unwrap();
        self.observe(None);
        let Some(want) = want else {
            if !(self.paused || self.draining || self.closed) {
                assert!(held > 0, "I10: an empty shard may always fetch");
                self.hit(Fault::NoRoomToFetch);
                self.reference.loose = true;
            }
            return;
        };
        assert!(!(self.paused || self.draining || self.closed));
        let after = want
            .after
            .as_ref()
            .map(|position| position.sequence.as_str());
        assert_eq!(
            after,
            self.reference.last_taken_in(),
            "the next page follows the last record taken in"
        );
        assert_eq!(
            self.engine.wants(self.shard, self.now),
            Ok(None),
            "one fetch at a time"
        );
        self.observe(None);
        if self.chance(self.options.fetch_fails) {
            self.hit(Fault::FetchFailed);
            self.engine.fetch_failed(self.shard).unwrap();
            return;
        }
        let range = self.next_page();
        if self.chance(self.options.fetch_fails) {
            self.hit(Fault::FetchLate);
            self.fetched = Some(range);
        } else {
            self.bring(range);
        }
    }

    /// What the source answers with now.
    fn next_page(&mut self) -> std::ops::Range<usize> {
        let mut begin = self.reference.taken_in;
        let mut end = self
            .log
            .arrived(self.now)
            .clamp(begin, begin + self.options.page_max);
        if self.chance(self.options.empty_page) {
            self.hit(Fault::EmptyPage);
            return begin..begin;
        }
        if end > begin && self.chance(self.options.short_read) {
            self.hit(Fault::ShortRead);
            end = begin + self.rng.index(end - begin) + 1;
        }
        if begin > 0 && self.chance(self.options.reread) {
            self.hit(Fault::ReRead);
            begin -= 1 + self.rng.index(begin.min(30));
        }
        begin..end
    }

    fn bring(&mut self, range: std::ops::Range<usize>) {
        let page = self.log.page(range.clone());
        self.page_bytes_max = self
            .page_bytes_max
            .max(page.held_bytes() + 8 * page.len() + 128);
        let empty = page.is_empty();
        match self.engine.offer(self.shard, page, Some(0), self.now) {
            Ok(offered) => self.reference.offered(range, offered, self.now),
            Err(UsageError::Closed) => {
                assert!(self.closed && !empty);
                self.engine.fetch_failed(self.shard).unwrap();
            }
            Err(other) => panic!("{other}"),
        }
        self.observe(None);
    }

    /// A page comes though nobody asked: taken in as a whole if there is room.
    fn offer_unasked(&mut self) {
        if self.closed {
            return;
        }
        self.hit(Fault::OfferedUnasked);
        let range = self.next_page();
        let page = self.log.page(range.clone());
        let (bytes, held) = (
            page.held_bytes() + 8 * page.len() + 128,
            self.engine.held_bytes(),
        );
        let before = self.engine.stats(self.shard).unwrap();
        let offered = self
            .engine
            .offer(self.shard, page, Some(0), self.now)
            .unwrap();
        if offered.accepted {
            self.page_bytes_max = self.page_bytes_max.max(bytes);
            self.reference.offered(range, offered, self.now);
        } else {
            self.hit(Fault::OfferRefused);
            self.reference.loose = true;
            assert!(
                held > 0 && held + bytes > self.options.budget_bytes / 2,
                "I10: a page with room is refused"
            );
            let mut after = self.engine.stats(self.shard).unwrap();
            after.lanes.clone_from(&before.lanes);
            assert_eq!(
                after, before,
                "a page that is refused changes nothing but closes waiting batches"
            );
        }
        self.observe(None);
    }

    // ---- function ----

    /// Takes one thing. Returns when to ask again if there is none.
    fn take(&mut self) -> Result<(), Option<i64>> {
        if self.reference.holds_back() {
            self.reach.fault(Fault::SyncHeldBack);
        }
        match self.engine.take(self.now) {
            Taken::Task(Task::Run(batch)) => {
                assert!(!self.paused, "a paused shard hands out nothing");
                let records = self.observe(Some(&batch)).unwrap();
                let number = self.rng.next();
                self.in_flight.push(Flight {
                    ticket: batch.ticket(),
                    records,
                    number,
                });
                Ok(())
            }
            Taken::Task(Task::Deliver(discard)) => {
                self.observe(None);
                self.reference.discard(&discard);
                self.send(discard.id());
                Ok(())
            }
            Taken::Wait(until) => {
                self.observe(None);
                assert!(
                    self.reference.discards_handed_over(),
                    "I1: a discard was told of and not handed over"
                );
                if !self.paused {
                    let open = !self.draining && !self.closed;
                    self.reference.waits(until, open, self.now);
                }
                Err(until)
            }
        }
    }

    fn send(&mut self, id: DiscardId) {
        let slow = self.chance(self.options.slow_confirm);
        if slow {
            self.hit(Fault::DiscardConfirmedLate);
        }
        let delay = if slow { self.rng.below(80) } else { 0 };
        self.deliveries.push((id, self.steps + delay));
    }

    fn answer(&mut self, flight: &Flight) -> Outcome {
        let len = flight.records.len();
        let index = |at: usize| u32::try_from(at).unwrap();
        let response = Response {
            executed_version: Some(self.rng.below(3).to_string()),
            function_error: self.rng.chance(500).then(|| "Unhandled".to_owned()),
            ..Response::default()
        };
        if self.kind {
            return Outcome::Success;
        }
        let report = self.reference.mapping().report_batch_item_failures;
        if self.chance(self.options.throttle) {
            self.hit(Fault::Throttle);
            return Outcome::Throttled;
        }
        if let Some(first) = flight
            .records
            .iter()
            .position(|record| self.log.entries[*record].poison)
        {
            if report && self.rng.chance(800) {
                self.hit(Fault::PoisonPartial);
                return Outcome::Partial {
                    index: index(first),
                    response,
                };
            }
            self.hit(Fault::PoisonRaised);
            return Outcome::Failure(response);
        }
        if self.chance(self.options.raise) {
            self.hit(Fault::Raised);
            return Outcome::Failure(response);
        }
        if report && self.chance(self.options.partial) {
            let at = if self.rng.chance(300) {
                0
            } else {
                self.rng.index(len)
            };
            self.hit(if at > 0 {
                Fault::PartialWithProgress
            } else {
                Fault::PartialWithoutProgress
            });
            return Outcome::Partial {
                index: index(at),
                response,
            };
        }
        Outcome::Success
    }

    fn finish_one(&mut self) {
        if self.in_flight.is_empty() {
            return;
        }
        let at = self.rng.index(self.in_flight.len());
        let flight = self.in_flight.swap_remove(at);
        let outcome = self.answer(&flight);
        if self.chance(self.options.misuse) {
            self.hit(Fault::WrongPartialIndex);
            let len = u32::try_from(flight.records.len()).unwrap();
            let index = len + u32::try_from(self.rng.below(3)).unwrap();
            let wrong = Outcome::Partial {
                index,
                response: Response::default(),
            };
            self.refused(
                flight.ticket,
                wrong,
                None,
                &UsageError::NoSuchRecord {
                    index,
                    records: len,
                },
            );
        }
        if self.chance(self.options.misuse) {
            self.hit(Fault::WindowStateGiven);
            self.refused(
                flight.ticket,
                Outcome::Success,
                Some(b"{}".to_vec()),
                &UsageError::NoWindow,
            );
        }
        let finished = self
            .engine
            .finish(flight.ticket, outcome.clone(), None, self.now)
            .unwrap();
        assert!(!finished.stale);
        self.reference.finished(&flight.records, &outcome, self.now);
        self.observe(None);
        for discard in &finished.discards {
            self.reference.discard(discard);
            self.send(discard.id());
        }
        assert!(
            self.reference.discards_handed_over(),
            "I1: finish hands over every discard"
        );
        if self.chance(self.options.misuse) {
            self.hit(Fault::FinishedTwice);
            self.refused(flight.ticket, outcome, None, &UsageError::NotInFlight);
        }
        self.old_tickets.push(flight.ticket);
    }

    /// A call to `finish` that is wrong: the engine says how, and nothing changes.
    fn refused(
        &mut self,
        ticket: Ticket,
        outcome: Outcome,
        state: Option<Vec<u8>>,
        expected: &UsageError,
    ) {
        let before = (
            self.engine.stats(self.shard).unwrap(),
            self.engine.checkpoint(self.shard).unwrap(),
        );
        let error = self
            .engine
            .finish(ticket, outcome, state, self.now)
            .unwrap_err();
        assert_eq!(error, *expected);
        let after = (
            self.engine.stats(self.shard).unwrap(),
            self.engine.checkpoint(self.shard).unwrap(),
        );
        assert_eq!(before, after, "a call that is refused changes nothing");
        assert!(self.engine.drain_trace().is_empty());
    }

    // ---- destination ----

    fn confirm_one(&mut self) {
        let due: Vec<usize> = (0..self.deliveries.len())
            .filter(|at| self.deliveries[*at].1 <= self.steps)
            .collect();
        if due.is_empty() {
            return;
        }
        let at = self.rng.pick(&due);
        if at > 0 {
            self.hit(Fault::DiscardConfirmedOutOfOrder);
        }
        let (id, _) = self.deliveries.remove(at);
        let how = if self.chance(self.options.give_up) {
            self.hit(Fault::DiscardGivenUp);
            Confirmation::GivenUp
        } else {
            Confirmation::Delivered
        };
        assert!(self.engine.confirm(id, how));
        assert!(self.reference.confirmed(id));
        self.observe(None);
        self.old_discards.push(id);
    }

    // ---- store ----

    fn save(&mut self) {
        if let Some((version, stored)) = self.saving.take() {
            self.store(stored, Some(version));
            return;
        }
        let snapshot = self.engine.checkpoint(self.shard).unwrap();
        assert_eq!(
            snapshot.is_some(),
            self.reference.is_dirty(),
            "a snapshot is given when something has changed"
        );
        let Some(snapshot) = snapshot else { return };
        let known = self.reference.snapshot(&snapshot.checkpoint);
        assert_eq!(
            snapshot.checkpoint.ended,
            self.closed && self.reference.is_idle()
        );
        let stored = Stored {
            blob: snapshot.checkpoint.encode(),
            known,
        };
        if self.chance(self.options.save_fails) {
            self.hit(Fault::SaveFailed);
        } else if self.chance(self.options.save_unconfirmed) {
            self.hit(Fault::SaveUnconfirmed);
            self.store(stored, None);
        } else if self.chance(self.options.save_late) {
            self.hit(Fault::SaveLate);
            self.saving = Some((snapshot.version, stored));
        } else {
            self.store(stored, Some(snapshot.version));
        }
    }

    fn store(&mut self, stored: Stored, version: Option<u64>) {
        if let Some(old) = &self.stored {
            for (record, (old, new)) in old
                .known
                .complete
                .iter()
                .zip(&stored.known.complete)
                .enumerate()
            {
                assert!(
                    *new || !old,
                    "I8: a checkpoint goes back behind record {record}"
                );
            }
            let (old, new) = (
                Checkpoint::decode(&old.blob).unwrap(),
                Checkpoint::decode(&stored.blob).unwrap(),
            );
            assert!(old.watermark <= new.watermark, "I8: a watermark goes back");
        }
        if let Some(version) = version {
            self.engine.saved(self.shard, version).unwrap();
            self.reference.saved(&stored.known);
            self.observe(None);
        }
        self.stored = Some(stored);
    }

    // ---- life ----

    fn pass_time(&mut self) {
        let by = if self.chance(self.options.jump) {
            self.hit(Fault::TimeJump);
            self.rng.range(20_000, 150_000)
        } else if self.rng.chance(300) {
            self.rng.range(200, 6_000)
        } else {
            self.rng.range(0, 200)
        };
        self.now += by;
    }

    fn live(&mut self) {
        if self.paused || self.draining {
            let in_flight = self.reference.in_flight();
            let unconfirmed = self.reference.unconfirmed();
            if self.rng.chance(600) {
                let mapping = self.options.another_mapping(&mut self.rng);
                let factor = mapping.parallelization_factor;
                let updated = self.engine.update(self.shard, mapping.clone(), self.now);
                if in_flight + unconfirmed > 0 {
                    self.hit(Fault::UpdateWhileBusy);
                    assert_eq!(
                        updated,
                        Err(UsageError::Busy {
                            in_flight,
                            unconfirmed
                        })
                    );
                } else {
                    assert_eq!(updated, Ok(()));
                    self.hit(Fault::UpdatedLive);
                    if factor != self.reference.mapping().parallelization_factor {
                        self.hit(Fault::UpdatedFactor);
                    }
                    self.reference.updated(mapping);
                }
                self.observe(None);
            } else if self.rng.chance(500) {
                self.resume();
            }
        } else if self.chance(self.options.pause * 20) {
            if self.rng.chance(700) {
                self.hit(Fault::Paused);
                self.engine.pause(self.shard).unwrap();
                self.paused = true;
            } else {
                self.hit(Fault::Drained);
                self.engine.drain(self.shard, self.now).unwrap();
                self.draining = true;
                self.reference.loose = true;
            }
            self.observe(None);
        } else if self.reference.taken_in == self.log.len() && self.rng.chance(100) {
            self.close();
        }
    }

    fn resume(&mut self) {
        self.engine.resume(self.shard, self.now).unwrap();
        (self.paused, self.draining) = (false, false);
        self.observe(None);
    }

    fn close(&mut self) {
        if !self.closed {
            self.engine.close(self.shard, self.now).unwrap();
            self.reference.closed();
            self.closed = true;
            self.observe(None);
        }
    }

    fn misuse(&mut self) {
        match self.rng.below(4) {
            0 => {
                self.hit(Fault::MadeUpTicket);
                let number = u64::from(self.shard) << 40 | self.rng.below(16) << 36 | (1 << 35);
                self.refused(
                    Ticket::from_u64(number),
                    Outcome::Success,
                    None,
                    &UsageError::NotInFlight,
                );
            }
            1 => {
                let Some(id) = self.old_discards.last().copied() else {
                    return;
                };
                self.hit(Fault::ConfirmedTwice);
                assert!(
                    !self.engine.confirm(id, Confirmation::Delivered),
                    "a discard is confirmed once"
                );
                assert!(self.engine.drain_trace().is_empty());
            }
            2 => {
                self.hit(Fault::UpdateOutOfRange);
                let before = self.engine.stats(self.shard).unwrap();
                let mapping = MappingConfig {
                    batch_size: 10_001,
                    ..self.reference.mapping().clone()
                };
                let error = self
                    .engine
                    .update(self.shard, mapping, self.now)
                    .unwrap_err();
                assert!(matches!(error, UsageError::Config(_)), "{error}");
                assert_eq!(self.engine.stats(self.shard).unwrap(), before);
            }
            _ => {
                let Some(ticket) = self.old_tickets.first().copied() else {
                    return;
                };
                self.hit(Fault::FinishedTwice);
                if ticket.shard() == self.shard {
                    self.refused(ticket, Outcome::Success, None, &UsageError::NotInFlight);
                }
            }
        }
    }

    fn crash(&mut self) {
        self.hit(Fault::Crash);
        if let Some((_, stored)) = self.saving.take() {
            self.hit(Fault::CrashDuringSave);
            if self.rng.chance(500) {
                self.store(stored, None);
            }
        }
        for flight in std::mem::take(&mut self.in_flight) {
            self.hit(Fault::CrashWithBatchesInFlight);
            // What the function does depends on the batch only, so that the same seed gives the same world.
            if flight.number.is_multiple_of(2) {
                self.hit(Fault::CrashAfterUnseenSuccess);
                self.reference.unseen_success(&flight.records);
            }
            self.old_tickets.push(flight.ticket);
        }
        self.deliveries.clear();
        self.old_discards.clear();
        self.fetched = None;
        self.runs += 1;
        let old = self.old_tickets.last().copied();
        self.old_tickets.clear();
        let again = self.rng.chance(500);
        if again {
            self.engine.remove(self.shard).unwrap();
            assert_eq!(
                self.engine.held_bytes(),
                0,
                "I10: a shard that is removed holds nothing"
            );
        } else {
            self.engine = Engine::new(self.options.budget_bytes);
            self.engine.enable_trace();
        }
        self.restart();
        if let Some(old) = old.filter(|_| again) {
            self.hit(Fault::StaleTicket);
            assert!(
                self.engine
                    .finish(old, Outcome::Success, None, self.now)
                    .unwrap()
                    .stale
            );
        }
    }

    fn restart(&mut self) {
        let mut mapping = self.reference.mapping().clone();
        if self.rng.chance(500) {
            mapping = self.options.another_mapping(&mut self.rng);
        }
        if mapping.parallelization_factor != self.reference.mapping().parallelization_factor {
            self.hit(Fault::RestartWithOtherFactor);
        }
        if self.stored.is_none() {
            self.hit(Fault::RestartWithoutCheckpoint);
        }
        let checkpoint = self
            .stored
            .as_ref()
            .map(|stored| Checkpoint::decode(&stored.blob).unwrap());
        if let Some(stored) = &self.stored
            && self.rng.chance(200)
        {
            let mut blob = stored.blob.clone();
            let at = self.rng.index(blob.len());
            blob[at] ^= 1 << self.rng.below(8);
            assert!(
                Checkpoint::decode(&blob).is_err(),
                "a damaged checkpoint is refused"
            );
            self.hit(Fault::DamagedCheckpointRefused);
        }
        let seed = self.seed ^ self.runs << 40;
        let config = shard_config(&self.options, mapping.clone(), seed);
        self.shard = self.engine.add_shard(config, checkpoint.clone()).unwrap();
        let known = self.stored.as_ref().map(|stored| &stored.known);
        self.reference
            .restart(mapping, known.zip(checkpoint.as_ref()));
        self.closed = checkpoint.is_some_and(|checkpoint| checkpoint.ended);
        self.ended = self.closed;
        (self.paused, self.draining) = (false, false);
    }

    // ---- the end ----

    /// No more faults: everything must come to its end in a bounded number of steps.
    fn be_kind(&mut self) {
        self.kind = true;
        if self.paused || self.draining {
            self.resume();
        }
        let rounds_max = 20 * self.log.len() + 1_000;
        let mut rounds = 0;
        loop {
            rounds += 1;
            assert!(
                rounds < rounds_max,
                "I11: no end after {rounds} rounds without faults"
            );
            self.poll();
            if self.reference.taken_in == self.log.len() {
                self.close();
            }
            let until = loop {
                match self.take() {
                    Ok(()) => self.after_step(),
                    Err(until) => break until,
                }
            };
            let mut moved = !self.in_flight.is_empty();
            while !self.in_flight.is_empty() {
                self.finish_one();
                self.after_step();
            }
            for (_, at) in &mut self.deliveries {
                *at = 0;
            }
            while !self.deliveries.is_empty() {
                self.confirm_one();
                moved = true;
            }
            moved |= self.reference.is_dirty();
            self.save();
            self.after_step();
            if self.closed && self.reference.is_idle() && !self.reference.is_dirty() {
                break;
            }
            if !moved {
                let arrives = self
                    .log
                    .entries
                    .get(self.reference.taken_in)
                    .map(|entry| entry.arrival_ms);
                let later = [until, arrives]
                    .into_iter()
                    .flatten()
                    .filter(|at| *at > self.now)
                    .min();
                let unread = self.log.arrived(self.now) > self.reference.taken_in;
                assert!(
                    later.is_some() || unread || until.is_some(),
                    "I11: records are left and nothing will wake"
                );
                self.now = later.unwrap_or(self.now + 1);
            }
        }
        self.at_rest();
    }

    fn at_rest(&mut self) {
        for (record, ended) in self.reference.ended.iter().enumerate() {
            assert!(
                *ended,
                "I1: record {record} has neither succeeded, nor been given up, nor expired"
            );
        }
        let stats = self.engine.stats(self.shard).unwrap();
        assert_eq!(stats.state, ShardState::Ended);
        assert_eq!(
            (stats.held_records, stats.held_bytes, stats.span),
            (0, 0, 0),
            "I10: nothing is held at the end"
        );
        assert_eq!(
            (
                stats.in_flight,
                stats.unconfirmed_discards,
                self.engine.held_bytes()
            ),
            (0, 0, 0),
            "I10"
        );
        assert!(self.ended, "the trace tells of the end");
        let last = Checkpoint::decode(&self.stored.as_ref().unwrap().blob).unwrap();
        assert!(last.ended, "the end is saved");
        let watermark = last
            .watermark
            .map(|position| position.sequence.as_str().to_owned());
        assert_eq!(
            watermark.as_deref(),
            self.reference.last_taken_in(),
            "the watermark is at the last record"
        );
    }
}
