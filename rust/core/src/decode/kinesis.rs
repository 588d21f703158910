//! The body of a `GetRecords` answer of Kinesis Data Streams, and of an event of `SubscribeToShard`, which has the same form (Kinesis
//! API reference, `GetRecords` and `SubscribeToShardEvent`).

mod plain;

use crate::decode::{Decoded, check_utf8, integer, literal, missing, nullable, string, typed};
use crate::error::PageError;
use crate::json::{Scanner, Text};
use crate::lanes::key_hash;
use crate::page::{ChildShard, Entry, KEY_BYTES_MAX, Span, check_arrival, check_size};
use crate::position::check_sequence;

type Result<T> = std::result::Result<T, PageError>;

/// Find the records and what stands around them.
///
/// # Errors
///
/// What is wrong with the body; first of all that it is not UTF-8.
pub(crate) fn decode(body: &[u8], fetch_ahead: impl FnMut(&[u8])) -> Result<Decoded> {
    read(body, fetch_ahead).map_err(|error| check_utf8(body, 0).err().unwrap_or(error))
}

/// The same, with any of the errors.
fn read(body: &[u8], mut fetch_ahead: impl FnMut(&[u8])) -> Result<Decoded> {
    let mut decoded = Decoded::default();
    let mut has_records = false;
    // Up to here the body is known to be UTF-8. Plain records are ASCII, apart from keys, which are looked at one by one; and no
    // character begins before a record and ends in it.
    let mut checked = 0;
    let mut scanner = Scanner::new(body);
    let start = scanner.object(|scanner, name| match &*scanner.value_bytes(name)? {
        b"Records" => {
            has_records = true;
            decoded.entries.clear();
            decoded.canonical.clear();
            decoded.ascending = true;
            typed(scanner, b'[', "Records", "an array")?;
            scanner.array(|scanner| {
                let start = scanner.offset();
                let end = plain::read(body, start, &mut decoded, &mut fetch_ahead);
                if end.at > start {
                    // One byte is the comma between two of them.
                    if start - checked > 1 {
                        check_utf8(&body[checked..start], checked)?;
                    }
                    checked = end.at - usize::from(end.is_odd);
                    scanner.go_to(end.at);
                }
                if end.is_odd {
                    decoded.ascending = false;
                    let entry = record(scanner, body, &mut decoded.canonical)?;
                    decoded.entries.push(entry);
                }
                Ok(())
            })
        }
        b"NextShardIterator" => {
            decoded.trailer.next_iterator =
                nullable(scanner, |scanner| string(scanner, "NextShardIterator"))?;
            Ok(())
        }
        b"MillisBehindLatest" => {
            decoded.trailer.millis_behind =
                nullable(scanner, |scanner| integer(scanner, "MillisBehindLatest", 0))?;
            Ok(())
        }
        b"ContinuationSequenceNumber" => {
            decoded.trailer.continuation = nullable(scanner, |scanner| {
                string(scanner, "ContinuationSequenceNumber")
            })?;
            Ok(())
        }
        b"ChildShards" => {
            let children = nullable(scanner, |scanner| {
                let mut children = Vec::new();
                typed(scanner, b'[', "ChildShards", "an array")?;
                scanner.array(|scanner| {
                    children.push(child_shard(scanner)?);
                    Ok(())
                })?;
                Ok(children)
            })?;
            decoded.trailer.child_shards = children.unwrap_or_default();
            Ok(())
        }
        _ => scanner.skip(),
    })?;
    scanner.end()?;
    if !has_records {
        return Err(missing(start, "Records"));
    }
    check_utf8(&body[checked..], checked)?;
    check_size(body.len(), body.len() + decoded.canonical.len())?;
    Ok(decoded)
}

/// A record of any form.
fn record(scanner: &mut Scanner<'_>, body: &[u8], canonical: &mut Vec<u8>) -> Result<Entry> {
    let (mut key, mut sequence, mut data, mut arrival) = (None, None, None, None);
    typed(scanner, b'{', "a record", "an object")?;
    let start = scanner.object(|scanner, name| {
        match &*scanner.value_bytes(name)? {
            b"PartitionKey" => key = Some(literal(scanner, "PartitionKey")?),
            b"SequenceNumber" => sequence = Some(literal(scanner, "SequenceNumber")?),
            b"Data" => data = Some(literal(scanner, "Data")?),
            b"ApproximateArrivalTimestamp" => {
                let offset = scanner.peek("a number")?.1;
                let arrival_ms = integer(scanner, "ApproximateArrivalTimestamp", 3)?;
                check_arrival(offset, "ApproximateArrivalTimestamp", arrival_ms)?;
                arrival = Some(arrival_ms);
            }
            _ => scanner.skip()?,
        }
        Ok(())
    })?;
    let key = key.ok_or_else(|| missing(start, "PartitionKey"))?;
    let sequence = sequence.ok_or_else(|| missing(start, "SequenceNumber"))?;
    let data = data.ok_or_else(|| missing(start, "Data"))?;
    let arrival_ms = arrival.ok_or_else(|| missing(start, "ApproximateArrivalTimestamp"))?;

    let key_text = scanner.value(key)?;
    if key_text.len() > KEY_BYTES_MAX {
        return Err(PageError::KeyTooLong {
            offset: key.start,
            bytes: key_text.len(),
            max: KEY_BYTES_MAX,
        });
    }
    check_sequence(&scanner.value(sequence)?).map_err(|reason| PageError::BadSequenceNumber {
        offset: sequence.start,
        reason,
    })?;
    let mut span = |literal: Text| -> Result<Span> {
        if !literal.escaped {
            return Ok(Span::new(literal.start, literal.end));
        }
        let start = body.len() + canonical.len();
        scanner.write_canonical(literal, canonical)?;
        check_size(literal.start, body.len() + canonical.len())?;
        Ok(Span::new(start, body.len() + canonical.len()))
    };
    let (key, sequence, data) = (span(key)?, span(sequence)?, span(data)?);
    Ok(Entry::new(
        key,
        sequence,
        data,
        arrival_ms,
        key_hash(key_text.as_bytes()),
    ))
}

fn child_shard(scanner: &mut Scanner<'_>) -> Result<ChildShard> {
    let (mut shard_id, mut parent_shards) = (None, None);
    typed(scanner, b'{', "a child shard", "an object")?;
    let start = scanner.object(|scanner, name| {
        match &*scanner.value_bytes(name)? {
            b"ShardId" => shard_id = Some(string(scanner, "ShardId")?),
            b"ParentShards" => {
                let mut parents = Vec::new();
                typed(scanner, b'[', "ParentShards", "an array")?;
                scanner.array(|scanner| {
                    parents.push(string(scanner, "an element of ParentShards")?);
                    Ok(())
                })?;
                parent_shards = Some(parents);
            }
            _ => scanner.skip()?,
        }
        Ok(())
    })?;
    Ok(ChildShard {
        shard_id: shard_id.ok_or_else(|| missing(start, "ShardId"))?,
        parent_shards: parent_shards.ok_or_else(|| missing(start, "ParentShards"))?,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::select;

    use crate::{Format, Page, PageError};

    /// What a page of one record holds, or what is wrong with it.
    fn read(record: &str) -> Result<String, PageError> {
        let body = format!(r#"{{"Records":[{record}]}}"#);
        let page = Page::parse(body, Format::Kinesis)?;
        let record = page.record(0);
        let texts = (record.key(), record.sequence(), record.data_base64());
        Ok(format!(
            "{texts:?} {} {}",
            record.arrival_ms(),
            record.key_hash()
        ))
    }

    #[test]
    fn a_plain_record_is_read_as_one_with_a_blank_is() {
        let values = [
            vec![
                r#""PartitionKey":"a""#,
                r#""PartitionKey":"caf\u00e9""#,
                r#""PartitionKey":"é""#,
                r#""PartitionKey":7"#,
                r#""PartitionKey":"a","Other":[1]"#,
                r#""PartitionKey":"a","EncryptionType":"KMS""#,
                r#""PartitionKey":"a","EncryptionType":null"#,
                "",
            ],
            vec![
                r#""SequenceNumber":"12""#,
                r#""SequenceNumber":"1x""#,
                r#""SequenceNumber":"""#,
                r#""SequenceNumber":"1x","SequenceNumber":"12""#,
                "",
            ],
            vec![
                r#""Data":"SGVsbG8=""#,
                r#""Data":"a\nb""#,
                "\"Data\":\"a\nb\"",
                r#""Data":null"#,
                r#""Data":"SGVs"#,
                "",
            ],
            vec![
                r#""ApproximateArrivalTimestamp":1.545084650987E9"#,
                r#""ApproximateArrivalTimestamp":1545084650.5"#,
                r#""ApproximateArrivalTimestamp":154508465.50987E+1"#,
                r#""ApproximateArrivalTimestamp":-1.5450846509879E9"#,
                r#""ApproximateArrivalTimestamp":1e300"#,
                r#""ApproximateArrivalTimestamp":1e300,"ApproximateArrivalTimestamp":1"#,
                r#""ApproximateArrivalTimestamp":-"#,
                r#""ApproximateArrivalTimestamp":"1""#,
                "",
            ],
        ];
        let (mut read_well, mut refused) = (0, 0);
        for key in &values[0] {
            for sequence in &values[1] {
                for data in &values[2] {
                    for arrival in &values[3] {
                        for order in [[0, 1, 2, 3], [3, 2, 0, 1]] {
                            let members = order.map(|at| *[key, sequence, data, arrival][at]);
                            let members: Vec<_> =
                                members.into_iter().filter(|one| !one.is_empty()).collect();
                            let members = members.join(",");
                            let plain = read(&format!("{{{members}}}"));
                            let blank = read(&format!("{{ {members}}}"));
                            match (&plain, &blank) {
                                (Ok(plain), Ok(blank)) => assert_eq!(plain, blank, "{members}"),
                                (Err(plain), Err(blank)) => assert_eq!(
                                    std::mem::discriminant(plain),
                                    std::mem::discriminant(blank),
                                    "{members}"
                                ),
                                _ => panic!("{members}: {plain:?}, with a blank {blank:?}"),
                            }
                            read_well += u32::from(plain.is_ok());
                            refused += u32::from(plain.is_err());
                        }
                    }
                }
            }
        }
        assert!(read_well > 50 && refused > 500, "{read_well}, {refused}");
    }

    /// Members of a record, most of them plain, of the lengths around those that are read at once; some are wrong.
    fn members() -> impl Strategy<Value = Vec<String>> {
        let length = || {
            select(vec![
                0, 1, 7, 15, 16, 17, 62, 63, 64, 65, 127, 128, 129, 300,
            ])
        };
        let key = (
            length(),
            select(vec!["", "", "", "", "é", "\\u00e9", "\\n", "\\x"]),
        )
            .prop_map(|(length, last)| {
                format!("\"PartitionKey\":\"{}{last}\"", "k".repeat(length))
            });
        let data = (
            length(),
            select(vec!["", "", "", "", "=", "é", "\\\"", "\u{1}"]),
        )
            .prop_map(|(length, last)| format!("\"Data\":\"{}{last}\"", "D".repeat(length)));
        let sequence = (
            select(vec![56, 56, 56, 56, 1, 55, 57, 63, 64, 129, 130]),
            "[0-9]{2}",
            select(vec!["", "", "", "", "", "x"]),
        )
            .prop_map(|(digits, last, wrong): (usize, String, _)| {
                let first = "7".repeat(digits.saturating_sub(2));
                format!("\"SequenceNumber\":\"{first}{last}{wrong}\"")
            });
        let arrival = select(vec![
            "1700000000.123",
            "1700000000.12",
            "1700000000",
            "1.545084650987E9",
            "1.5e9",
            "15E8",
            "1545084650987e-3",
            "1.5E10",
            "1.5E+9",
            "-1.5",
            "0",
            "00",
            "0.0005",
            "1700000000.12345",
            "1700000000.1234567",
            "1.",
            "9e300",
            "7 ",
        ])
        .prop_map(|number| format!("\"ApproximateArrivalTimestamp\":{number}"));
        let other = select(vec![
            "",
            "",
            "",
            "\"EncryptionType\":\"KMS\"",
            "\"EncryptionType\":7",
            "\"Other\":{}",
        ]);
        (
            key,
            data,
            sequence,
            arrival,
            other,
            any::<bool>(),
            0..200_u8,
        )
            .prop_flat_map(|(key, data, sequence, arrival, other, sorted, lost)| {
                let mut members = vec![arrival, data, key, sequence, other.to_owned()];
                if let Some(member) = members.get_mut(usize::from(lost)) {
                    member.clear();
                }
                members.retain(|member| !member.is_empty());
                if sorted {
                    Just(members).boxed()
                } else {
                    Just(members).prop_shuffle().boxed()
                }
            })
    }

    /// All that a page says of its records, or how it is refused.
    fn read_all(body: String) -> Result<(Vec<String>, bool), std::mem::Discriminant<PageError>> {
        let page =
            Page::parse(body, Format::Kinesis).map_err(|error| std::mem::discriminant(&error))?;
        let texts = page.records().map(|record| {
            format!(
                "{:?} {} {}",
                record.as_bytes(),
                record.arrival_ms(),
                record.key_hash()
            )
        });
        Ok((texts.collect(), page.is_ascending()))
    }

    proptest! {
        #[test]
        fn records_that_change_their_shape_are_read_as_those_with_blanks_are(
            records in proptest::collection::vec((members(), select(vec![",", ",", ",", " ,", ", "])), 0..6),
            trailer in select(vec!["}", ",\"MillisBehindLatest\":7}", "", ",\"NextShardIterator\":\"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\"}"]),
        ) {
            let body = |blank: &str| {
                let mut body = "{\"Records\":[".to_owned();
                for (index, (members, comma)) in records.iter().enumerate() {
                    body.push_str(if index > 0 { comma } else { "" });
                    body.extend(["{", blank, &members.join(","), "}"]);
                }
                body + "]" + trailer
            };
            prop_assert_eq!(read_all(body("")), read_all(body(" ")));
        }
    }
}
