//! Pages whose aggregated records are taken apart, and pages that are cut without cutting an aggregate.

use std::ops::RangeInclusive;

use base64::Engine as _;

use super::{Entry, KEY_BYTES_MAX, PAGE_BYTES_MAX, Page, Span};
use crate::codec::{STANDARD, encode};
use crate::decode::kpl::{self, Aggregate};
use crate::json::write_escaped;
use crate::lanes::key_hash;

/// What [`Page::deaggregate`] gives.
#[derive(Debug, Clone)]
pub struct Deaggregated {
    /// The page with every aggregate taken apart.
    pub page: Page,
    /// Aggregates left out because a record of theirs belongs to another shard.
    pub foreign: u32,
}

impl Page {
    /// A page in which the records that the Kinesis Producer Library has packed into one stand by themselves, as Lambda hands them over
    /// with enhanced fan-out. None where there is no aggregate.
    ///
    /// A record of an aggregate has its own partition key and data, and of the record around it the sequence number and the arrival
    /// time; [`Record::sub`](super::Record::sub) is its place there, counted from 0. What is damaged stays one plain record, as it does
    /// for the Kinesis Client Library. An aggregate of which any record has a hash outside `hash_keys`, the range of the shard, is left
    /// out as a whole, as by that library and by Lambda: the producer has written it again, to where it belongs.
    ///
    /// # Examples
    ///
    /// ```
    /// use streamcore::PageBuilder;
    ///
    /// let aggregate = b"\xf3\x89\x9a\xc2\x0a\x03ann\x1a\x05\x08\x00\x1a\x011\x1a\x05\x08\x00\x1a\x012\
    ///     \x85\xe7\xf7\x10W\xa1*g\x14\x18\x15\xc8\xcf\xe4h\x20";
    /// let mut builder = PageBuilder::new();
    /// builder.push("a", aggregate, 0, Some("7"))?;
    /// builder.push("b", b"plain", 0, Some("8"))?;
    /// let page = builder.finish().deaggregate(&(0..=u128::MAX)).unwrap().page;
    /// let records: Vec<_> = page.records().map(|record| (record.key().into_owned(), record.sequence(), record.sub())).collect();
    /// assert_eq!(records, [("ann".into(), "7", 0), ("ann".into(), "7", 1), ("b".into(), "8", 0)]);
    /// # Ok::<(), streamcore::PageError>(())
    /// ```
    #[must_use]
    pub fn deaggregate(&self, hash_keys: &RangeInclusive<u128>) -> Option<Deaggregated> {
        let may_be_aggregate =
            |entry: &Entry| entry.data.of(&self.body).starts_with(kpl::MAGIC_TEXT);
        if !self.entries.iter().any(may_be_aggregate) {
            return None;
        }
        let mut writer = Writer {
            page: self,
            body: Vec::with_capacity(self.body.len()),
            entries: Vec::with_capacity(self.entries.len()),
        };
        let (mut aggregates, mut foreign) = (0_u32, 0);
        let mut data = Vec::new();
        for entry in &self.entries {
            data.clear();
            let decoded = may_be_aggregate(entry)
                && STANDARD
                    .decode_vec(entry.data.of(&self.body), &mut data)
                    .is_ok();
            let aggregate = if decoded { kpl::read(&data) } else { None };
            match aggregate.and_then(|aggregate| Parts::new(aggregate, hash_keys)) {
                Some(parts) if writer.has_room(&parts.aggregate) => {
                    aggregates += 1;
                    if parts.foreign {
                        foreign += 1;
                    } else {
                        writer.write_parts(entry, &parts.aggregate);
                    }
                }
                _ => writer.write_whole(entry),
            }
        }
        if aggregates == 0 {
            return None;
        }
        let Writer {
            mut body,
            mut entries,
            ..
        } = writer;
        body.shrink_to_fit();
        entries.shrink_to_fit();
        Some(Deaggregated {
            page: Self::new(body.into(), entries, self.trailer.clone(), self.format),
            foreign,
        })
    }

    /// The first records, at most `limit` of them, and the rest. None where there are no more than that.
    ///
    /// An aggregate is not cut: one that the page begins with is in the first part whatever its size. What stood around the records goes
    /// with the rest.
    ///
    /// # Examples
    ///
    /// ```
    /// use streamcore::PageBuilder;
    ///
    /// let mut builder = PageBuilder::new();
    /// for sequence in ["7", "8", "9"] {
    ///     builder.push("a", b"1", 0, Some(sequence))?;
    /// }
    /// let (first, rest) = builder.finish().cut(2).unwrap();
    /// assert_eq!((first.len(), rest.len()), (2, 1));
    /// assert!(first.cut(2).is_none());
    /// # Ok::<(), streamcore::PageError>(())
    /// ```
    #[must_use]
    pub fn cut(&self, limit: usize) -> Option<(Self, Self)> {
        let begins = |index: &usize| self.entries[*index].sub == 0;
        let at = (1..=limit.max(1).min(self.len()))
            .rev()
            .find(|index| *index == self.len() || begins(index))
            .or_else(|| (limit.max(1)..self.len()).find(begins))?;
        if at == self.len() {
            return None;
        }
        let indices: Vec<u32> = (0_u32..).take(self.len()).collect();
        let mut rest = self.compact(&indices[at..]);
        rest.trailer = self.trailer.clone();
        Some((self.compact(&indices[..at]), rest))
    }
}

/// An aggregate, and whether it belongs to another shard.
struct Parts<'a> {
    aggregate: Aggregate<'a>,
    foreign: bool,
}

impl<'a> Parts<'a> {
    /// None where a key cannot be one: the aggregate is a damaged one then.
    fn new(aggregate: Aggregate<'a>, hash_keys: &RangeInclusive<u128>) -> Option<Self> {
        if aggregate
            .partition_keys
            .iter()
            .any(|key| key.len() > KEY_BYTES_MAX)
        {
            return None;
        }
        let of_keys: Vec<u128> = aggregate
            .partition_keys
            .iter()
            .map(|key| kpl::hash_of_key(key))
            .collect();
        let explicit: Vec<Option<u128>> = aggregate
            .hash_keys
            .iter()
            .map(|key| key.parse().ok())
            .collect();
        let mut foreign = false;
        for record in &aggregate.records {
            let hash = match record.hash_key {
                Some(place) => explicit[place]?,
                None => of_keys[record.partition_key],
            };
            foreign |= !hash_keys.contains(&hash);
        }
        Some(Self { aggregate, foreign })
    }
}

struct Writer<'a> {
    page: &'a Page,
    body: Vec<u8>,
    entries: Vec<Entry>,
}

impl Writer<'_> {
    /// Whether the records of an aggregate can be written, and all others of the page after them.
    fn has_room(&self, aggregate: &Aggregate<'_>) -> bool {
        let keys = aggregate.partition_keys.iter().map(|key| key.len() * 6);
        let data = aggregate
            .records
            .iter()
            .map(|record| record.data.len().div_ceil(3) * 4);
        let more = keys.sum::<usize>() + data.sum::<usize>();
        self.body.len() + more + self.page.body.len() <= PAGE_BYTES_MAX
    }

    fn append(&mut self, span: Span) -> Span {
        let start = self.body.len();
        self.body.extend_from_slice(span.of(&self.page.body));
        Span::new(start, self.body.len())
    }

    fn write_whole(&mut self, entry: &Entry) {
        let (key, sequence) = (self.append(entry.key()), self.append(entry.sequence()));
        let data = self.append(entry.data);
        self.entries.push(Entry {
            sub: entry.sub,
            ..Entry::new(key, sequence, data, entry.arrival_ms, entry.key_hash)
        });
    }

    /// The records share the sequence number and the keys.
    fn write_parts(&mut self, outer: &Entry, aggregate: &Aggregate<'_>) {
        let sequence = self.append(outer.sequence());
        let mut keys: Vec<(Span, u64)> = Vec::with_capacity(aggregate.partition_keys.len());
        for key in &aggregate.partition_keys {
            let start = self.body.len();
            write_escaped(key, &mut self.body);
            keys.push((Span::new(start, self.body.len()), key_hash(key.as_bytes())));
        }
        self.entries.reserve(aggregate.records.len());
        for (sub, record) in (0_u32..).zip(&aggregate.records) {
            let start = self.body.len();
            encode(record.data, &mut self.body);
            let data = Span::new(start, self.body.len());
            let (key, hash) = keys[record.partition_key];
            self.entries.push(Entry {
                sub,
                ..Entry::new(key, sequence, data, outer.arrival_ms, hash)
            });
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use md5::{Digest, Md5};

    use super::*;
    use crate::page::PageBuilder;

    /// An aggregate whose records all have one key.
    fn aggregate(key: &str, records: usize) -> Vec<u8> {
        let size = u8::try_from(key.len() & 0x7f).unwrap() | 0x80;
        let more = u8::try_from(key.len() >> 7).unwrap();
        let mut body = [&[0x0a, size, more][..], key.as_bytes()].concat();
        for _ in 0..records {
            body.extend_from_slice(b"\x1a\x05\x08\x00\x1a\x01x");
        }
        let digest = Md5::digest(&body);
        [&[0xf3, 0x89, 0x9a, 0xc2][..], &body, &digest].concat()
    }

    fn apart(rows: &[(&[u8], &str)]) -> Page {
        let mut builder = PageBuilder::new();
        for (data, sequence) in rows {
            builder.push("outer", data, 0, Some(sequence)).unwrap();
        }
        builder.finish().deaggregate(&(0..=u128::MAX)).unwrap().page
    }

    #[test]
    fn records_share_their_key_also_when_they_are_moved() {
        let key = "k".repeat(10_000);
        let page = apart(&[(&aggregate(&key, 5_000), "7")]);
        let all: Vec<u32> = (0..5_000).collect();
        let moved = page.compact(&all[1_000..]);
        for (page, records) in [(&page, 5_000), (&moved, 4_000)] {
            assert_eq!(page.len(), records);
            assert!(page.records().all(|record| record.key() == key));
            assert!(
                page.held_bytes() < 1_000_000,
                "written out for each record, the key would take 50 MB"
            );
        }
        assert_eq!((moved.sub(0), moved.sequence(0)), (1_000, &b"7"[..]));
    }

    #[test]
    fn the_begin_of_an_aggregate_is_found_also_where_records_before_it_have_moved_away() {
        let parts = aggregate(&"k".repeat(200), 4);
        let page = apart(&[(b"plain", "9"), (&parts, "10"), (&parts, "11")]);
        let begins: Vec<usize> = (0..9).map(|index| page.begin_of_aggregate(index)).collect();
        assert_eq!(begins, [0, 1, 1, 1, 1, 5, 5, 5, 5]);
        let moved = page.compact(&[0, 3, 4, 6, 8]);
        let begins: Vec<usize> = (0..5)
            .map(|index| moved.begin_of_aggregate(index))
            .collect();
        assert_eq!(begins, [0, 1, 1, 3, 3]);
    }

    #[test]
    fn what_stands_around_the_records_stays_with_the_rest() {
        let body = br#"{"Records":[{"PartitionKey":"a","SequenceNumber":"1","Data":"","ApproximateArrivalTimestamp":0},
            {"PartitionKey":"a","SequenceNumber":"2","Data":"","ApproximateArrivalTimestamp":0}],
            "ContinuationSequenceNumber":"5","MillisBehindLatest":7,
            "ChildShards":[{"ShardId":"s","ParentShards":["p"]}]}"#;
        let page = Page::parse(body.to_vec(), crate::Format::Kinesis).unwrap();
        assert_eq!(page.trailer().continuation.as_deref(), Some("5"));
        let (first, rest) = page.cut(1).unwrap();
        assert_eq!(*first.trailer(), crate::Trailer::default());
        assert_eq!(*rest.trailer(), *page.trailer());
    }
}
