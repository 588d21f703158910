//! What happens to the shard: time, pauses, updates, wrong calls, crashes and restarts.

use streamcore::{Checkpoint, Confirmation, Engine, MappingConfig, Outcome, Ticket, UsageError};

use super::{World, shard_config};
use crate::sim::reach::Fault;

impl World {
    pub(super) fn pass_time(&mut self) {
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

    pub(super) fn live(&mut self) {
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
                    if mapping.filter != self.reference.mapping().filter {
                        self.hit(Fault::UpdatedFilter);
                    }
                    if mapping.tumbling_window_ms != self.reference.mapping().tumbling_window_ms {
                        self.hit(Fault::UpdatedWindow);
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
            self.reference.leave_tip();
            self.observe(None);
        } else if self.reference.taken_in == self.log.len() && self.rng.chance(100) {
            self.close();
        }
    }

    pub(super) fn resume(&mut self) {
        self.engine.resume(self.shard, self.now).unwrap();
        (self.paused, self.draining) = (false, false);
        self.observe(None);
    }

    pub(super) fn close(&mut self) {
        if !self.closed {
            self.engine.close(self.shard, self.now).unwrap();
            self.reference.closed();
            self.closed = true;
            self.observe(None);
        }
    }

    pub(super) fn misuse(&mut self) {
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

    pub(super) fn crash(&mut self) {
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

    pub(super) fn restart(&mut self) {
        let mut mapping = self.reference.mapping().clone();
        if self.rng.chance(500) {
            mapping = self.options.another_mapping(&mut self.rng);
        }
        if mapping.parallelization_factor != self.reference.mapping().parallelization_factor {
            self.hit(Fault::RestartWithOtherFactor);
        }
        if mapping.filter != self.reference.mapping().filter {
            self.hit(Fault::RestartWithOtherFilter);
        }
        if mapping.tumbling_window_ms != self.reference.mapping().tumbling_window_ms {
            self.hit(Fault::RestartWithOtherWindow);
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
}
