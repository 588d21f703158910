//! Which records are complete, kept as plain sets: what every checkpoint of a scenario must know, no more and no less.

use std::collections::BTreeSet;

use streamcore::{key_hash, lane};

/// A record as a scenario writes it.
#[derive(Debug, Clone)]
pub(super) struct Written {
    pub(super) number: u64,
    pub(super) key: String,
    pub(super) arrival_ms: i64,
    pub(super) bytes: usize,
}

/// The records of one run, by lane, and what has become of them.
#[derive(Debug, Default, Clone)]
pub(super) struct Truth {
    /// Every record ever taken in, once, in order: what the stream holds.
    pub(super) log: Vec<Written>,
    /// What a checkpoint taken now knows as complete.
    pub(super) known: BTreeSet<u64>,
    /// Records of this run by lane, in order.
    lanes: Vec<Vec<u64>>,
    /// Complete for order.
    done: BTreeSet<u64>,
    /// Of those, the ones whose discard is not confirmed.
    unconfirmed: BTreeSet<u64>,
}

impl Truth {
    /// A run begins, from a checkpoint that knew these records.
    pub(super) fn restart(&mut self, known: BTreeSet<u64>, factor: u8) {
        *self = Self {
            log: std::mem::take(&mut self.log),
            known,
            ..Self::default()
        };
        self.lanes = vec![Vec::new(); factor.into()];
    }

    /// A record is taken in, for the first time in this run. True if it was complete already.
    pub(super) fn take_in(&mut self, record: &Written) -> bool {
        if self.log.iter().all(|old| old.number != record.number) {
            self.log.push(record.clone());
            self.log.sort_by_key(|record| record.number);
        }
        // What a run reads past is no longer in the stream.
        let first = self.lanes.iter().all(Vec::is_empty);
        let known = &self.known;
        self.log
            .retain(|old| !first || old.number >= record.number || known.contains(&old.number));
        if self.known.contains(&record.number) {
            return true;
        }
        let lane = self.lane_of(&record.key);
        self.lanes[lane].push(record.number);
        false
    }

    pub(super) fn lane_of(&self, key: &str) -> usize {
        let factor = u8::try_from(self.lanes.len()).expect("at most ten lanes");
        lane(key_hash(key.as_bytes()), factor).into()
    }

    /// The incomplete records of a lane, in order.
    pub(super) fn incomplete(&self, lane: usize) -> impl Iterator<Item = u64> {
        self.lanes[lane]
            .iter()
            .copied()
            .filter(|number| !self.done.contains(number))
    }

    pub(super) fn complete(&mut self, numbers: impl IntoIterator<Item = u64>) {
        for number in numbers {
            assert!(
                self.done.insert(number),
                "record {number} was completed twice"
            );
        }
        self.learn();
    }

    pub(super) fn discard(&mut self, numbers: &[u64]) {
        self.unconfirmed.extend(numbers);
        self.complete(numbers.iter().copied());
    }

    pub(super) fn confirm(&mut self, numbers: &[u64]) {
        for number in numbers {
            self.unconfirmed.remove(number);
        }
        self.learn();
    }

    /// The lanes are made anew.
    pub(super) fn update(&mut self, factor: u8) {
        let mut rest: Vec<u64> = self
            .lanes
            .iter()
            .flatten()
            .copied()
            .filter(|number| !self.done.contains(number))
            .collect();
        rest.sort_unstable();
        self.lanes = vec![Vec::new(); factor.into()];
        for number in rest {
            let key = self
                .log
                .iter()
                .find(|record| record.number == number)
                .expect("it was taken in")
                .key
                .clone();
            let lane = self.lane_of(&key);
            self.lanes[lane].push(number);
        }
    }

    /// A checkpoint knows of each lane what is complete before its first record that is not.
    fn learn(&mut self) {
        for lane in &self.lanes {
            let complete =
                |number: &&u64| self.done.contains(number) && !self.unconfirmed.contains(number);
            self.known.extend(lane.iter().take_while(complete));
        }
    }

    /// What a restart from a checkpoint that knows `known` must hand out.
    pub(super) fn rest(&self, known: &BTreeSet<u64>) -> BTreeSet<u64> {
        self.log
            .iter()
            .map(|record| record.number)
            .filter(|number| !known.contains(number))
            .collect()
    }
}
