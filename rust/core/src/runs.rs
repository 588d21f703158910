//! A list of runs that mostly has one: the first stands in the list itself, so that a batch of few records needs no memory of its own.

use std::collections::VecDeque;

use crate::buffer::Run;

/// Runs that are not empty, in order.
#[derive(Debug, Default)]
pub(crate) struct Runs {
    first: Option<Run>,
    /// Empty where there is no first.
    rest: VecDeque<Run>,
}

impl Runs {
    pub(crate) fn front(&self) -> Option<&Run> {
        self.first.as_ref()
    }

    pub(crate) fn get(&self, index: usize) -> Option<Run> {
        match index.checked_sub(1) {
            None => self.first,
            Some(index) => self.rest.get(index).copied(),
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Run> {
        self.first.iter().chain(&self.rest)
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

    pub(crate) fn push_back(&mut self, run: Run) {
        if self.first.is_none() {
            self.first = Some(run);
        } else {
            self.rest.push_back(run);
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
            self.first = self.rest.pop_front();
        }
        Some(taken)
    }
}

impl Extend<Run> for Runs {
    fn extend<T: IntoIterator<Item = Run>>(&mut self, runs: T) {
        runs.into_iter().for_each(|run| self.push_back(run));
    }
}

impl IntoIterator for Runs {
    type Item = Run;
    type IntoIter =
        std::iter::Chain<std::option::IntoIter<Run>, std::collections::vec_deque::IntoIter<Run>>;

    fn into_iter(self) -> Self::IntoIter {
        self.first.into_iter().chain(self.rest)
    }
}
