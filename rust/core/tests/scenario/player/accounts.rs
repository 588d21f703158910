//! What a shard says of itself: checkpoints, the trace, counts; and that a restart goes on from there.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use streamcore::{
    Checkpoint, Engine, Event, LaneState, MappingConfig, MappingIdentity, Outcome, ShardConfig,
    Start, Taken, Task,
};

use super::super::script::{list, numbers, seconds};
use super::{Player, key, page, position};

impl Player {
    pub(super) fn checkpoint(&mut self) {
        let Some(snapshot) = self.engine.checkpoint(self.shard).unwrap() else {
            return self.say("nothing has changed");
        };
        let checkpoint = &snapshot.checkpoint;
        let mut line = format!("watermark {}", position(checkpoint.watermark.as_ref()));
        for tag in checkpoint.tags() {
            let marks: Vec<_> = tag
                .marks
                .iter()
                .map(|mark| position(mark.as_ref()))
                .collect();
            let _ = write!(line, ", marks [{}]", marks.join(" "));
        }
        line.push_str(if checkpoint.ended { ", ended" } else { "" });
        self.say(&line);
        self.snapshot = Some((snapshot, self.truth.known.clone()));
    }

    /// The last snapshot reaches the store.
    pub(super) fn save(&mut self) {
        let (snapshot, known) = self.snapshot.clone().expect("checkpoint comes before save");
        self.saved = Some((snapshot.checkpoint.encode(), known));
        self.engine.saved(self.shard, snapshot.version).unwrap();
    }

    /// Restarted at this moment, under any factor, the engine hands out exactly what is not complete.
    pub(super) fn check_restarts(&mut self) {
        // The truth knows records, and not that what is behind an unconfirmed closing call comes again: tests/windows.rs accounts for that.
        let closing = |nth: &usize| self.discards[nth - 1].1.is_empty();
        if self.unconfirmed.iter().any(closing) {
            return;
        }
        let current = self.engine.checkpoint(self.shard).ok().flatten();
        let checkpoint = match current {
            Some(snapshot) => snapshot.checkpoint,
            None => self
                .restored()
                .unwrap_or_else(|| Checkpoint::fresh(key(), Start::TrimHorizon)),
        };
        let known = if self.engine.stats(self.shard).is_ok() {
            self.truth.known.clone()
        } else {
            self.saved
                .as_ref()
                .map(|saved| saved.1.clone())
                .unwrap_or_default()
        };
        let rest = self.truth.rest(&known);
        let blob = checkpoint.encode();
        for factor in [self.factor(), 1, 3, 10] {
            let restored = Checkpoint::decode(&blob).unwrap();
            if restored.ended {
                assert!(rest.is_empty(), "an ended shard has no incomplete record");
                continue;
            }
            let mapping = MappingConfig {
                parallelization_factor: factor,
                batch_size: 10_000,
                ..MappingConfig::default()
            };
            let mut engine = Engine::default();
            let shard = engine
                .add_shard(
                    ShardConfig::new(key(), MappingIdentity::default(), mapping),
                    Some(restored),
                )
                .unwrap();
            engine.offer(shard, page(&self.truth.log), None, 0).unwrap();
            let mut again = BTreeSet::new();
            while let Taken::Task(Task::Run(batch)) = engine.take(0) {
                again.extend(numbers(&batch.records()));
                engine
                    .finish(batch.ticket(), Outcome::Success, None, 0)
                    .unwrap();
            }
            assert_eq!(
                again, rest,
                "a restart with factor {factor} hands out what is not complete"
            );
        }
    }

    // ---- accounts ----

    /// Takes the engine's trace; what passes without the function is told.
    pub(super) fn collect_trace(&mut self) {
        for (_, event) in self.engine.drain_trace() {
            match &event {
                Event::Expired { lane, records } => {
                    let numbers: Vec<u64> = self
                        .truth
                        .incomplete((*lane).into())
                        .take(*records as usize)
                        .collect();
                    let shown = self.shown(&numbers);
                    self.truth.complete(numbers);
                    self.say(&format!("{} expired {}", seconds(self.now), list(&shown)));
                }
                Event::Oversized {
                    sequence, attempts, ..
                } => {
                    self.say(&format!(
                        "{} oversized [{sequence}] attempt {attempts}",
                        seconds(self.now)
                    ));
                }
                Event::Ended => self.say(&format!("{} ended", seconds(self.now))),
                _ => {}
            }
            self.trace.push(event);
        }
    }

    pub(super) fn print_trace(&mut self) {
        self.collect_trace();
        for event in std::mem::take(&mut self.trace) {
            let mut line = event.to_string();
            if let Event::HandedOut { request_id, .. } | Event::Closing { request_id, .. } = &event
            {
                line = line.replace(request_id, &self.request(request_id));
            }
            self.say(&line);
        }
    }

    pub(super) fn stats(&mut self) {
        let stats = match self.engine.stats(self.shard) {
            Ok(stats) => stats,
            Err(error) => return self.say(&format!("error: {error}")),
        };
        let lanes: Vec<_> = stats
            .lanes
            .iter()
            .map(|lane| {
                let first = lane
                    .first_sequence_number
                    .as_deref()
                    .map_or_else(String::new, |first| format!(" at {first}"));
                let doing = match lane.state {
                    LaneState::Empty => "empty".into(),
                    LaneState::Ready => "ready".into(),
                    LaneState::InFlight(_) => "in flight".into(),
                    LaneState::Waiting(until) => format!("waiting until {}", seconds(until)),
                    LaneState::Parked(until) => format!("parked until {}", seconds(until)),
                };
                format!("{doing}{first}")
            })
            .collect();
        let life = format!("{:?}", stats.state).to_lowercase();
        self.say(&format!(
            "{life}, {} held, {} in flight, {} unconfirmed, watermark {}, lanes: {}",
            stats.held_records,
            stats.in_flight,
            stats.unconfirmed_discards,
            position(stats.watermark.as_ref()),
            lanes.join("; ")
        ));
    }
}
