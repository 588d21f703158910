//! What is looked at of every lane at each step. It stands apart from the rest of a lane, so that this takes few cache lines, and what
//! the lanes do is kept as sets too, so that most steps look at no lane but their own.

use std::ops::Deref;

use crate::buffer::LaneSet;
use crate::stats::LaneState;

#[derive(Debug, Clone, Copy)]
pub(super) struct Head {
    pub(super) state: LaneState,
    /// The ordinal of its first incomplete record; the highest number where it has none.
    pub(super) first: u64,
}

/// One head for each lane.
#[derive(Debug)]
pub(super) struct Heads {
    all: Vec<Head>,
    ready: LaneSet,
    ready_count: usize,
    in_flight: LaneSet,
    /// Lanes that become ready by themselves: they wait, or are parked.
    waking: LaneSet,
}

impl Heads {
    /// Empty lanes.
    pub(super) fn new(lanes: usize) -> Self {
        let head = Head {
            state: LaneState::Empty,
            first: u64::MAX,
        };
        Self {
            all: vec![head; lanes],
            ready: 0,
            ready_count: 0,
            in_flight: 0,
            waking: 0,
        }
    }

    pub(super) fn set_state(&mut self, lane: usize, state: LaneState) {
        let bit: LaneSet = 1 << lane;
        self.ready_count -= usize::from(self.ready & bit != 0);
        self.ready &= !bit;
        self.in_flight &= !bit;
        self.waking &= !bit;
        match state {
            LaneState::Empty => {}
            LaneState::Ready => {
                self.ready |= bit;
                self.ready_count += 1;
            }
            LaneState::InFlight(_) => self.in_flight |= bit,
            LaneState::Waiting(_) | LaneState::Parked(_) => self.waking |= bit,
        }
        self.all[lane].state = state;
    }

    pub(super) fn set_first(&mut self, lane: usize, first: u64) {
        self.all[lane].first = first;
    }

    pub(super) fn ready(&self) -> usize {
        self.ready_count
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.count_ones() as usize
    }

    /// Whether no lane can be stuck: none is in flight, and none waits for a time.
    pub(super) fn are_free(&self) -> bool {
        self.in_flight | self.waking == 0
    }

    /// The instant at which the first lane becomes ready by itself.
    pub(super) fn next_wake(&self) -> Option<i64> {
        let times = lanes(self.waking).filter_map(|lane| match self.all[lane].state {
            LaneState::Waiting(until) | LaneState::Parked(until) => Some(until),
            _ => None,
        });
        times.min()
    }

    /// The lanes that wait or are parked.
    pub(super) fn waking(&self) -> impl Iterator<Item = usize> + use<> {
        lanes(self.waking)
    }

    /// Of the ready lanes the one with the oldest record, so that the watermark moves. One without a record is ready to close a window,
    /// and goes first.
    pub(super) fn oldest_ready(&self) -> Option<usize> {
        lanes(self.ready).min_by_key(|lane| self.all[*lane].first.wrapping_add(1))
    }

    /// The ordinal of the lowest incomplete record, and its lane; the highest number and some lane where there is none.
    pub(super) fn oldest(&self) -> (u64, usize) {
        let firsts = self.all.iter().map(|head| head.first).zip(0..);
        firsts.min().expect("a shard has a lane")
    }

    /// Makes the sets anew and compares.
    pub(super) fn check(&self) {
        let mut anew = Self::new(self.all.len());
        for (lane, head) in self.all.iter().enumerate() {
            anew.set_state(lane, head.state);
        }
        assert_eq!(
            (anew.ready, anew.ready_count, anew.in_flight, anew.waking),
            (self.ready, self.ready_count, self.in_flight, self.waking),
            "I4: what lanes do is known without looking at each"
        );
    }
}

impl Deref for Heads {
    type Target = [Head];

    fn deref(&self) -> &[Head] {
        &self.all
    }
}

impl<'a> IntoIterator for &'a Heads {
    type Item = &'a Head;
    type IntoIter = std::slice::Iter<'a, Head>;

    fn into_iter(self) -> Self::IntoIter {
        self.all.iter()
    }
}

/// The lanes of a set, in order.
pub(super) fn lanes(mut set: LaneSet) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        if set == 0 {
            return None;
        }
        let lane = set.trailing_zeros() as usize;
        set &= set - 1;
        Some(lane)
    })
}
