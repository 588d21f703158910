//! The stream: every record of a seed, known beforehand, and the pages that a source would answer with.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use md5::{Digest, Md5};
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
    /// Its place in an aggregate; 0 for a plain record too.
    pub(crate) sub: u32,
    pub(crate) key: String,
    pub(crate) key_hash: u64,
    pub(crate) arrival_ms: i64,
    /// Its part of the event, written by this test.
    pub(crate) json: String,
    pub(crate) poison: bool,
    /// What the payload says: `{"n":7}` and spaces. None where that does not fit, and the payload is no JSON.
    pub(crate) n: Option<u32>,
    payload: Vec<u8>,
}

#[derive(Debug)]
pub(crate) struct Log {
    pub(crate) entries: Vec<Entry>,
    numbers: Vec<(u128, u32)>,
}

fn seconds(ms: i64) -> String {
    let whole = format!("{}.{:03}", ms / 1_000, ms % 1_000);
    whole.trim_end_matches('0').trim_end_matches('.').to_owned()
}

impl Entry {
    fn new(
        (number, sub): (u128, u32),
        key: u64,
        arrival_ms: i64,
        payload_bytes: usize,
        poison: bool,
    ) -> Self {
        let n = u32::try_from((number + u128::from(sub)) % 10).unwrap();
        let n = (payload_bytes >= 7).then_some(n);
        let payload = match n {
            Some(n) => format!("{:<payload_bytes$}", format!(r#"{{"n":{n}}}"#)).into_bytes(),
            None => vec![0; payload_bytes],
        };
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
            data = STANDARD.encode(&payload),
            seconds = seconds(arrival_ms),
            shard = SHARD_ID,
            role = ROLE_ARN,
            region = REGION,
            stream = STREAM_ARN,
        );
        let key_hash = streamcore::key_hash(key.as_bytes());
        Self {
            sequence,
            sub,
            key,
            key_hash,
            arrival_ms,
            json,
            poison,
            n,
            payload,
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
        let (mut sub, mut arrival_ms) = (0, BEGIN_MS);
        for nth in 0..options.records {
            if nth > 0 && rng.chance(options.aggregated) {
                sub += 1;
            } else {
                sub = 0;
                number += u128::from(1 + rng.below(9));
                arrival += rng.range(0, 2 * options.spacing_ms);
                // Records are not always in the order of their arrival times.
                arrival_ms = (arrival - rng.range(0, options.spacing_ms)).max(BEGIN_MS);
            }
            // The product of two draws makes some keys hot.
            let key = rng.below(options.keys) * rng.below(options.keys + 1) / options.keys;
            let payload = if rng.chance(options.oversized) {
                4_000
            } else {
                rng.range(0, 2 * options.payload)
            };
            let poison = options.poison_key == Some(key) || rng.chance(options.poison_records);
            entries.push(Entry::new(
                (number, sub),
                key,
                arrival_ms,
                usize::try_from(payload).unwrap(),
                poison,
            ));
            numbers.push((number, sub));
        }
        Self { entries, numbers }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn find(&self, sequence: &str, sub: u32) -> usize {
        let number: u128 = sequence.parse().unwrap();
        self.numbers
            .binary_search(&(number, sub))
            .unwrap_or_else(|_| panic!("no record has the position ({sequence}, {sub})"))
    }

    /// The index of the first record after all those of a sequence number.
    pub(crate) fn after(&self, sequence: &str) -> usize {
        let number: u128 = sequence.parse().unwrap();
        self.numbers.partition_point(|(own, _)| *own <= number)
    }

    /// Where the records of a sequence number begin, if `index` is one of them; the index itself at the end.
    pub(crate) fn begin_of(&self, index: usize) -> usize {
        let sub = self.entries.get(index).map_or(0, |entry| entry.sub);
        index - usize::try_from(sub).unwrap()
    }

    /// How many records have arrived.
    pub(crate) fn arrived(&self, now: i64) -> usize {
        self.entries
            .iter()
            .take_while(|entry| entry.arrival_ms <= now)
            .count()
    }

    /// The page of a source that takes aggregates apart. The range begins and ends between two sequence numbers.
    pub(crate) fn page(&self, range: std::ops::Range<usize>) -> Page {
        let mut builder = PageBuilder::new();
        let mut rest = &self.entries[range];
        while let Some(first) = rest.first() {
            let same = |entry: &&Entry| entry.sequence == first.sequence;
            let (records, others) = rest.split_at(rest.iter().take_while(same).count());
            rest = others;
            let (key, payload) = match records {
                [plain] => (plain.key.as_str(), plain.payload.clone()),
                parts => ("outer", aggregate(parts)),
            };
            builder
                .push(key, &payload, first.arrival_ms, Some(&first.sequence))
                .unwrap();
        }
        let page = builder.finish();
        match page.deaggregate(&(0..=u128::MAX)) {
            Some(apart) => apart.page,
            None => page,
        }
    }
}

/// Records as the Kinesis Producer Library writes them into one.
fn aggregate(records: &[Entry]) -> Vec<u8> {
    fn number(mut value: usize, out: &mut Vec<u8>) {
        while value > 0x7f {
            out.push(u8::try_from(value & 0x7f).unwrap() | 0x80);
            value >>= 7;
        }
        out.push(u8::try_from(value).unwrap());
    }
    fn field(tag: u8, bytes: &[u8], out: &mut Vec<u8>) {
        out.push(tag << 3 | 2);
        number(bytes.len(), out);
        out.extend_from_slice(bytes);
    }
    let mut body = Vec::new();
    for (place, record) in records.iter().enumerate() {
        field(1, record.key.as_bytes(), &mut body);
        let mut message = vec![1 << 3];
        number(place, &mut message);
        field(3, &record.payload, &mut message);
        field(3, &message, &mut body);
    }
    let digest = Md5::digest(&body);
    [&[0xf3, 0x89, 0x9a, 0xc2][..], &body, &digest].concat()
}
