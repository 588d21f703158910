//! What stands around the engine: source, function, destination and store.

use streamcore::{
    Batch, Checkpoint, Confirmation, DiscardId, Offered, Outcome, Response, ReturnedState, Taken,
    Task, Ticket, UsageError, Window,
};

use super::{Flight, Stored, World};
use crate::sim::reach::Fault;
use crate::sim::reference::windows::fold;

impl World {
    // ---- source ----

    pub(super) fn poll(&mut self) {
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
                self.reference.leave_tip();
            }
            return;
        };
        assert!(!(self.paused || self.draining || self.closed));
        self.reference.fetches(true);
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
            self.fetch_failed();
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
    pub(super) fn next_page(&mut self) -> std::ops::Range<usize> {
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
        // An aggregate comes as a whole, also where it is larger than what was asked for.
        let arrived = self.log.arrived(self.now).max(end);
        end = match self.log.begin_of(end) {
            cut if cut > begin || end == begin => cut,
            _ => (end..arrived)
                .find(|index| self.log.begin_of(*index) == *index)
                .unwrap_or(arrived),
        };
        if begin > 0 && self.chance(self.options.reread) {
            self.hit(Fault::ReRead);
            begin = self.log.begin_of(begin - 1 - self.rng.index(begin.min(30)));
        }
        begin..end
    }

    pub(super) fn bring(&mut self, range: std::ops::Range<usize>) {
        let page = self.log.page(range.clone());
        self.page_bytes_max = self
            .page_bytes_max
            .max(page.held_bytes() + 8 * page.len() + 128);
        let empty = page.is_empty();
        let behind = self.behind();
        match self.engine.offer(self.shard, page, behind, self.now) {
            Ok(offered) => {
                self.hit_filtered(&offered);
                self.reference.offered(range, offered, behind, self.now);
            }
            Err(UsageError::Closed) => {
                assert!(self.closed && !empty);
                self.fetch_failed();
            }
            Err(other) => panic!("{other}"),
        }
        self.observe(None);
    }

    fn fetch_failed(&mut self) {
        self.engine.fetch_failed(self.shard).unwrap();
        self.reference.fetches(false);
        self.reference.leave_tip();
    }

    /// How far behind the tip a page is.
    fn behind(&mut self) -> Option<i64> {
        if self.options.windows && self.chance(self.options.behind) {
            self.hit(Fault::BehindTip);
            return self.rng.pick(&[None, Some(1)]);
        }
        Some(0)
    }

    fn hit_filtered(&mut self, offered: &Offered) {
        if offered.filtered == 0 {
            return;
        }
        self.hit(Fault::FilteredOut);
        if offered.filtered == offered.records {
            self.hit(Fault::AllFilteredOut);
        }
        if self.options.aggregated > 0 {
            self.hit(Fault::FilteredWithAggregates);
        }
    }

    /// A page comes though nobody asked: taken in as a whole if there is room.
    pub(super) fn offer_unasked(&mut self) {
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
        let behind = self.behind();
        let offered = self
            .engine
            .offer(self.shard, page, behind, self.now)
            .unwrap();
        if offered.accepted {
            self.page_bytes_max = self.page_bytes_max.max(bytes);
            self.hit_filtered(&offered);
            self.reference.offered(range, offered, behind, self.now);
        } else {
            self.hit(Fault::OfferRefused);
            self.reference.loose = true;
            self.reference.leave_tip();
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
    pub(super) fn take(&mut self) -> Result<(), Option<i64>> {
        if self.reference.holds_back() {
            self.reach.fault(Fault::SyncHeldBack);
        }
        let taken = self.engine.take_with(self.now, |in_flight| {
            let records = in_flight.records();
            let sequences = records.map(|record| record.sequence().to_owned());
            (in_flight.ticket(), sequences.collect::<Vec<_>>())
        });
        match taken {
            Taken::Task(Task::Run((ticket, sequences))) => {
                assert!(!self.paused, "a paused shard hands out nothing");
                let batch = self.engine.batch(ticket).expect("it is in flight");
                let records = batch.records();
                let shared = records.iter().map(|record| record.sequence());
                assert!(shared.eq(&sequences), "they are the same records");
                let records = self.observe(Some(&batch)).unwrap();
                self.hit_idle(&batch);
                let number = self.rng.next();
                let hung = self.in_flight.iter().any(|flight| flight.hangs);
                let hangs = self.options.hangs && !self.kind && !hung;
                if hangs {
                    self.hit(Fault::Hung);
                }
                self.in_flight.push(Flight {
                    hangs,
                    ticket: batch.ticket(),
                    state: batch.window().map(|window| window.state().to_vec()),
                    records,
                    number,
                    batch,
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

    /// A window closes because nothing has come for long enough.
    fn hit_idle(&mut self, batch: &Batch) {
        let ends_early = batch.window().is_some_and(Window::is_terminated_early);
        let without = self.reference.mapping().tumbling_window_ms == 0;
        if batch.is_empty()
            && self.reference.pending() == 0
            && !(ends_early || without || self.closed)
        {
            self.hit(Fault::WindowIdle);
        }
    }

    pub(super) fn send(&mut self, id: DiscardId) {
        let slow = self.chance(self.options.slow_confirm);
        if slow {
            self.hit(Fault::DiscardConfirmedLate);
        }
        let delay = if slow { self.rng.below(80) } else { 0 };
        self.deliveries.push((id, self.steps + delay));
    }

    pub(super) fn answer(&mut self, flight: &Flight) -> Outcome {
        let len = flight.records.len();
        let index = |at: usize| u32::try_from(at).unwrap();
        let response = Box::new(Response {
            executed_version: Some(self.rng.below(3).to_string()),
            function_error: self.rng.chance(500).then(|| "Unhandled".to_owned()),
            ..Response::default()
        });
        if self.kind {
            return Outcome::Success;
        }
        let report = self.reference.mapping().report_batch_item_failures;
        if self.chance(self.options.throttle) {
            self.hit(Fault::Throttle);
            return Outcome::Throttled;
        }
        if self.chance(self.options.too_large) {
            self.hit(if len > 1 {
                Fault::TooLarge
            } else {
                Fault::RecordTooLarge
            });
            let request_id = self.rng.chance(500).then(|| self.rng.next().to_string());
            return Outcome::TooLarge { request_id };
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
        if report && len > 0 && self.chance(self.options.partial) {
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

    pub(super) fn finish_one(&mut self) {
        if self.in_flight.is_empty() {
            return;
        }
        let at = self.rng.index(self.in_flight.len());
        if self.in_flight[at].hangs && !self.kind {
            return;
        }
        let flight = self.in_flight.swap_remove(at);
        let Flight { batch, records, .. } = &flight;
        self.reference
            .check_batch(batch, records, self.whole_events);
        let outcome = self.answer(&flight);
        if self.chance(self.options.misuse) {
            self.hit(Fault::WrongPartialIndex);
            let len = u32::try_from(flight.records.len()).unwrap();
            let index = len + u32::try_from(self.rng.below(3)).unwrap();
            let wrong = Outcome::Partial {
                index,
                response: Box::default(),
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
        if flight.state.is_none() && self.chance(self.options.misuse) {
            self.hit(Fault::WindowStateGiven);
            self.refused(
                flight.ticket,
                Outcome::Success,
                Some(ReturnedState {
                    state: b"{}".to_vec(),
                    ends_window: false,
                }),
                &UsageError::NoWindow,
            );
        }
        let (returned, ends) = self.returned(&flight, &outcome);
        let finished = self
            .engine
            .finish(flight.ticket, outcome.clone(), returned, self.now)
            .unwrap();
        assert!(!finished.stale);
        self.reference
            .finished(&flight.records, &outcome, ends, self.now);
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

    /// The state that the function returns: the one it got, and the records that it has done. And whether the window ends with it.
    fn returned(&mut self, flight: &Flight, outcome: &Outcome) -> (Option<ReturnedState>, bool) {
        let Some(state) = &flight.state else {
            return (None, false);
        };
        let done = match outcome {
            Outcome::Success => flight.records.len(),
            Outcome::Partial { index, .. } => usize::try_from(*index).unwrap(),
            _ => 0,
        };
        let ends_window = self.chance(self.options.ends_early);
        if ends_window && done > 0 {
            self.hit(Fault::WindowEndedEarly);
        }
        if flight.records.is_empty() && *outcome != Outcome::Success {
            self.hit(Fault::ClosingFailed);
        }
        let state = fold(state, &flight.records[..done]);
        (Some(ReturnedState { state, ends_window }), ends_window)
    }

    /// A call to `finish` that is wrong: the engine says how, and nothing changes.
    pub(super) fn refused(
        &mut self,
        ticket: Ticket,
        outcome: Outcome,
        state: Option<ReturnedState>,
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

    pub(super) fn confirm_one(&mut self) {
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

    pub(super) fn save(&mut self) {
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

    pub(super) fn store(&mut self, stored: Stored, version: Option<u64>) {
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
}
