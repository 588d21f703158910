//! A list of runs that mostly has one: the first stands in the list itself, so that a batch of few records needs no memory of its own.

use std::collections::VecDeque;
use std::iter::{Chain, Flatten};
use std::ops::Range;
use std::option;

use crate::buffer::Run;

/// Runs that are not empty, in order.
#[derive(Debug, Default)]
pub(crate) struct Runs {
    first: Option<Run>,
    /// Empty where there is no first.
    #[expect(
        clippy::box_collection,
        reason = "few lists have it, and lists stand where each step looks"
    )]
    rest: Option<Box<VecDeque<Run>>>,
}

impl Runs {
    pub(crate) fn front(&self) -> Option<&Run> {
        self.first.as_ref()
    }

    pub(crate) fn get(&self, index: usize) -> Option<Run> {
        match index.checked_sub(1) {
            None => self.first,
            Some(index) => self.rest.as_ref()?.get(index).copied(),
        }
    }

    pub(crate) fn last(&self) -> Option<Run> {
        self.rest
            .as_ref()
            .and_then(|rest| rest.back())
            .copied()
            .or(self.first)
    }

    pub(crate) fn iter(&self) -> <&Self as IntoIterator>::IntoIter {
        self.into_iter()
    }

    /// The first `records` of them.
    pub(crate) fn take(&self, mut records: u32) -> impl Iterator<Item = Run> {
        self.iter().map_while(move |run| {
            let taken = run.len().min(records);
            records -= taken;
            let end = run.start + taken;
            (taken > 0).then_some(Run { end, ..*run })
        })
    }

    /// The last of what [`Self::take`] gives.
    pub(crate) fn last_of_first(&self, records: u32) -> Option<Run> {
        self.prefix(records).or_else(|| self.take(records).last())
    }

    /// The same as one run, where it is one, as it mostly is.
    pub(crate) fn prefix(&self, records: u32) -> Option<Run> {
        let first = self.first.filter(|first| records <= first.len())?;
        let end = first.start + records;
        (records > 0).then_some(Run { end, ..first })
    }

    /// How many come before the first one for which `is_before` is false, as all behind it.
    pub(crate) fn partition_point(&self, mut is_before: impl FnMut(&Run) -> bool) -> usize {
        match &self.first {
            Some(first) if is_before(first) => {
                let rest = self.rest.as_ref();
                1 + rest.map_or(0, |rest| rest.partition_point(is_before))
            }
            _ => 0,
        }
    }

    /// Puts others in the place of some.
    pub(crate) fn replace(&mut self, range: Range<usize>, others: &[Run]) {
        let rest = self.rest.get_or_insert_default();
        if let Some(first) = self.first.take() {
            rest.push_front(first);
        }
        let both = range.len().min(others.len());
        let (over, more) = others.split_at(both);
        for (at, run) in range.clone().zip(over) {
            rest[at] = *run;
        }
        let behind = range.start + both;
        rest.drain(behind..range.end);
        for (at, run) in (behind..).zip(more) {
            rest.insert(at, *run);
        }
        self.first = rest.pop_front();
        // A list that was long keeps no memory for what it was.
        if rest.len() < rest.capacity() / 4 {
            rest.shrink_to(2 * rest.len());
        }
    }

    pub(crate) fn push_back(&mut self, run: Run) {
        if self.first.is_none() {
            self.first = Some(run);
        } else {
            self.rest.get_or_insert_default().push_back(run);
        }
    }

    /// Takes the first run, or its first `records`.
    pub(crate) fn pop_front(&mut self, records: u32) -> Option<Run> {
        let first = self.first.as_mut()?;
        let taken = Run {
            end: first.start + first.len().min(records),
            ..*first
        };
        first.start = taken.end;
        if first.len() == 0 {
            self.first = self.rest.as_mut().and_then(|rest| rest.pop_front());
        }
        Some(taken)
    }
}

impl Extend<Run> for Runs {
    fn extend<T: IntoIterator<Item = Run>>(&mut self, runs: T) {
        runs.into_iter().for_each(|run| self.push_back(run));
    }
}

impl<'a> IntoIterator for &'a Runs {
    type Item = &'a Run;
    type IntoIter = Chain<option::Iter<'a, Run>, Flatten<option::IntoIter<&'a VecDeque<Run>>>>;

    fn into_iter(self) -> Self::IntoIter {
        let rest = self.rest.as_deref().into_iter().flatten();
        self.first.iter().chain(rest)
    }
}
