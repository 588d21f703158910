//! Distributions of what is counted once for each batch: how many values of which size there were.

/// How many buckets a distribution has: the first holds 0 and 1, the one at `n` the values above 2^(n-1) up to 2^n, the last all larger ones.
pub const BUCKETS: usize = 33;

const MINUTE_MS: i64 = 60_000;

/// The smallest and the largest value of one minute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extremes {
    /// Minutes since the Unix epoch.
    pub minute: i64,
    /// The smallest value.
    pub least: u64,
    /// The largest value.
    pub greatest: u64,
}

/// How often which values came: counts by size in buckets that never change, so that distributions add up.
///
/// The extremes of the last two minutes that had a value are exact, for who reports minute by minute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Distribution {
    counts: [u64; BUCKETS],
    sum: u64,
    minutes: [Option<Extremes>; 2],
}

impl Default for Distribution {
    fn default() -> Self {
        Self {
            counts: [0; BUCKETS],
            sum: 0,
            minutes: [None; 2],
        }
    }
}

/// The minute of an instant.
pub(crate) fn minute(now: i64) -> i64 {
    now.div_euclid(MINUTE_MS)
}

impl Distribution {
    /// Counts a value of this minute. One below 0 counts as 0: ages are, where clocks differ.
    pub(crate) fn count(&mut self, value: i64, minute: i64) {
        let value = u64::try_from(value).unwrap_or(0);
        self.counts[bucket(value)] += 1;
        self.sum = self.sum.saturating_add(value);
        match &mut self.minutes[1] {
            Some(extremes) if extremes.minute >= minute => {
                extremes.least = extremes.least.min(value);
                extremes.greatest = extremes.greatest.max(value);
            }
            last => {
                let extremes = Extremes {
                    minute,
                    least: value,
                    greatest: value,
                };
                self.minutes[0] = last.replace(extremes);
            }
        }
    }

    /// How many values each bucket has.
    #[must_use]
    pub fn counts(&self) -> &[u64; BUCKETS] {
        &self.counts
    }

    /// The values added up.
    #[must_use]
    pub fn sum(&self) -> u64 {
        self.sum
    }

    /// The extremes of the last two minutes that had a value, the earlier one first.
    pub fn minutes(&self) -> impl Iterator<Item = &Extremes> {
        self.minutes.iter().flatten()
    }
}

fn bucket(value: u64) -> usize {
    let bits = u64::BITS - value.saturating_sub(1).leading_zeros();
    usize::try_from(bits).map_or(BUCKETS - 1, |bits| bits.min(BUCKETS - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_ends_with_its_power_of_two() {
        let found = [0, 1, 2, 3, 4, 5, 100, 128, 129].map(bucket);
        assert_eq!(found, [0, 0, 1, 2, 2, 3, 7, 7, 8]);
        assert_eq!(bucket(1 << 31), 31);
        assert_eq!(bucket((1 << 31) + 1), 32);
        assert_eq!(bucket(u64::MAX), 32);
    }

    #[test]
    fn values_add_up_and_a_negative_one_is_nothing() {
        let mut found = Distribution::default();
        for value in [3, -5, 100] {
            found.count(value, minute(0));
        }
        assert_eq!(found.sum(), 103);
        assert_eq!(found.counts().iter().sum::<u64>(), 3);
        assert_eq!(
            (found.counts()[0], found.counts()[2], found.counts()[7]),
            (1, 1, 1)
        );
    }

    #[test]
    fn the_extremes_of_the_last_two_minutes_are_kept() {
        let mut found = Distribution::default();
        for (value, now) in [(9, 0), (5, 59_999), (7, 60_000), (8, 200_000), (6, 239_999)] {
            found.count(value, minute(now));
        }
        let extremes = |minute, least, greatest| Extremes {
            minute,
            least,
            greatest,
        };
        let minutes: Vec<Extremes> = found.minutes().copied().collect();
        assert_eq!(minutes, [extremes(1, 7, 7), extremes(3, 6, 8)]);
    }
}
