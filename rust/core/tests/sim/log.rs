//! The stream: every record of a seed, known beforehand, and the pages that a source would answer with.

use streamcore::{Page, PageBuilder};

use super::options::{BEGIN_MS, Options};
use super::rng::Rng;

pub(crate) const SHARD_ID: &str = "shardId-0";
pub(crate) const STREAM_ARN: &str = "arn:s";
pub(crate) const ROLE_ARN: &str = "arn:r";
pub(crate) const REGION: &str = "eu-west-3";

#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) sequence: String,
    pub(crate) key: String,
    pub(crate) key_hash: u64,
    pub(crate) arrival_ms: i64,
    /// Its part of the event, written by this test.
    pub(crate) json: String,
    pub(crate) poison: bool,
    payload_bytes: usize,
}

#[derive(Debug)]
pub(crate) struct Log {
    pub(crate) entries: Vec<Entry>,
    numbers: Vec<u128>,
}

/// Base64 of zero bytes.
fn base64_of_zeros(bytes: usize) -> String {
    let digits = (bytes * 4).div_ceil(3);
    let padding = bytes.div_ceil(3) * 4 - digits;
    "A".repeat(digits) + &"=".repeat(padding)
}

fn seconds(ms: i64) -> String {
    let whole = format!("{}.{:03}", ms / 1_000, ms % 1_000);
    whole.trim_end_matches('0').trim_end_matches('.').to_owned()
}

impl Entry {
    fn new(number: u128, key: u64, arrival_ms: i64, payload_bytes: usize, poison: bool) -> Self {
        let (sequence, key) = (number.to_string(), format!("key-{key}"));
        let json = format!(
            concat!(
                r#"{{"kinesis":{{"kinesisSchemaVersion":"1.0","partitionKey":"{key}","sequenceNumber":"{sequence}","#,
                r#""data":"{data}","approximateArrivalTimestamp":{seconds}}},"eventSource":"aws:kinesis","#,
                r#""eventVersion":"1.0","eventID":"{shard}:{sequence}","eventName":"aws:kinesis:record","#,
                r#""invokeIdentityArn":"{role}","awsRegion":"{region}","eventSourceARN":"{stream}"}}"#,
            ),
            key = key,
            sequence = sequence,
            data = base64_of_zeros(payload_bytes),
            seconds = seconds(arrival_ms),
            shard = SHARD_ID,
            role = ROLE_ARN,
            region = REGION,
            stream = STREAM_ARN,
        );
        let key_hash = streamcore::key_hash(key.as_bytes());
        Self {
            sequence,
            key,
            key_hash,
            arrival_ms,
            json,
            poison,
            payload_bytes,
        }
    }
}

impl Log {
    pub(crate) fn draw(options: &Options, rng: &mut Rng) -> Self {
        // Numbers grow by gaps, and now and then get a digit longer.
        let mut number = u128::from(rng.pick(&[0_u64, 7, 90, 9_900, 4_959_033_827_149_025_660]));
        let mut arrival = BEGIN_MS;
        let mut entries = Vec::with_capacity(options.records);
        let mut numbers = Vec::with_capacity(options.records);
        for _ in 0..options.records {
            number += u128::from(1 + rng.below(9));
            arrival += rng.range(0, 2 * options.spacing_ms);
            // The product of two draws makes some keys hot.
            let key = rng.below(options.keys) * rng.below(options.keys + 1) / options.keys;
            let payload = if rng.chance(options.oversized) {
                4_000
            } else {
                rng.range(0, 2 * options.payload)
            };
            let poison = options.poison_key == Some(key) || rng.chance(options.poison_records);
            // Records are not always in the order of their arrival times.
            let arrival_ms = (arrival - rng.range(0, options.spacing_ms)).max(BEGIN_MS);
            entries.push(Entry::new(
                number,
                key,
                arrival_ms,
                usize::try_from(payload).unwrap(),
                poison,
            ));
            numbers.push(number);
        }
        Self { entries, numbers }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn find(&self, sequence: &str) -> usize {
        let number: u128 = sequence.parse().unwrap();
        self.numbers
            .binary_search(&number)
            .unwrap_or_else(|_| panic!("no record has the number {sequence}"))
    }

    /// How many records have arrived.
    pub(crate) fn arrived(&self, now: i64) -> usize {
        self.entries
            .iter()
            .take_while(|entry| entry.arrival_ms <= now)
            .count()
    }

    pub(crate) fn page(&self, range: std::ops::Range<usize>) -> Page {
        let mut builder = PageBuilder::new();
        for entry in &self.entries[range] {
            let payload = vec![0; entry.payload_bytes];
            builder
                .push(
                    &entry.key,
                    &payload,
                    entry.arrival_ms,
                    Some(&entry.sequence),
                )
                .unwrap();
        }
        builder.finish()
    }
}
