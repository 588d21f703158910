//! What looks random and is not: request ids and jitter, functions of a seed.

use xxhash_rust::xxh3::{xxh3_64_with_seed, xxh3_128_with_seed};

/// A stream of request ids and jitters for one shard. Two shards, and two runs of one shard with other seeds, never share ids.
#[derive(Debug)]
pub(crate) struct Chance {
    seed: u64,
}

impl Chance {
    /// Mixes the engine's seed with the name of the shard.
    pub(crate) fn new(seed: u64, name: &str) -> Self {
        Self {
            seed: xxh3_64_with_seed(name.as_bytes(), seed),
        }
    }

    /// The request id of the `serial`-th batch.
    pub(crate) fn request_id(&self, serial: u64) -> RequestId {
        RequestId {
            seed: self.seed,
            serial,
        }
    }

    /// The pause before try `failures + 1`: 0.2 s doubling to 60 s, ten per cent more or less.
    ///
    /// Lambda was seen to wait about 0.2 s before the first retry and 0.4 s before the second.
    pub(crate) fn backoff_ms(&self, serial: u64, failures: u32) -> i64 {
        let base = BACKOFF_MIN_MS
            .saturating_mul(1 << failures.saturating_sub(1).min(20))
            .min(BACKOFF_MAX_MS);
        let dice = xxh3_64_with_seed(&failures.to_le_bytes(), self.seed ^ serial);
        let tenth = base / 10;
        let jitter = i64::try_from(dice % u64::try_from(2 * tenth + 1).unwrap_or(1)).unwrap_or(0);
        base - tenth + jitter
    }
}

/// The id of a batch. Most are never looked at, so it becomes text when somebody does.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RequestId {
    seed: u64,
    serial: u64,
}

impl RequestId {
    /// The id in the form of a version 4 UUID.
    pub(crate) fn text(self) -> String {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let mut bytes = xxh3_128_with_seed(&self.serial.to_le_bytes(), self.seed).to_be_bytes();
        bytes[6] = bytes[6] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        let mut text = [b'-'; 36];
        // Where the two digits of each byte stand, between the hyphens.
        let places = [0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34];
        for (byte, at) in bytes.into_iter().zip(places) {
            text[at] = HEX[usize::from(byte >> 4)];
            text[at + 1] = HEX[usize::from(byte & 15)];
        }
        str::from_utf8(&text).expect("it is ASCII").to_owned()
    }
}

/// Pause before the first retry of a batch, before jitter.
pub const BACKOFF_MIN_MS: i64 = 200;
/// Longest pause between two tries of a batch, before jitter.
pub const BACKOFF_MAX_MS: i64 = 60_000;

#[cfg(test)]
mod tests {
    use super::Chance;

    #[test]
    fn request_ids_are_version_4_uuids_and_repeat_with_the_seed() {
        let chance = Chance::new(7, "shard");
        let id = chance.request_id(1).text();
        assert_eq!(id.len(), 36);
        assert_eq!(&id[14..15], "4");
        assert!(matches!(&id[19..20], "8" | "9" | "a" | "b"));
        assert_eq!(id, Chance::new(7, "shard").request_id(1).text());
        assert_ne!(id, chance.request_id(2).text());
        assert_ne!(id, Chance::new(8, "shard").request_id(1).text());
        assert_ne!(id, Chance::new(7, "other").request_id(1).text());
    }

    #[test]
    fn backoff_doubles_from_a_fifth_of_a_second_to_a_minute() {
        let chance = Chance::new(1, "shard");
        for (failures, base) in [
            (1, 200),
            (2, 400),
            (3, 800),
            (9, 51_200),
            (10, 60_000),
            (9_999, 60_000),
        ] {
            let got = chance.backoff_ms(3, failures);
            assert!(
                (base * 9 / 10..=base * 11 / 10).contains(&got),
                "{failures}: {got}"
            );
        }
    }
}
