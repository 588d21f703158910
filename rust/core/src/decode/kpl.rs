//! The form in which the Kinesis Producer Library packs many records into one (`aggregation-format.md` of
//! awslabs/amazon-kinesis-producer): four magic bytes, an `AggregatedRecord` in protocol buffers, and the MD5 of that.
//!
//! What has another form, also what is damaged, is a plain record, as it is for the Kinesis Client Library.

use md5::{Digest, Md5};

/// What an aggregate begins with.
const MAGIC: [u8; 4] = [0xf3, 0x89, 0x9a, 0xc2];
/// The first five characters of the base64 text of every aggregate: 30 of the 32 bits of the magic.
pub(crate) const MAGIC_TEXT: &[u8] = b"84maw";
const DIGEST_BYTES: usize = 16;
/// How deep groups may be nested, as in Google's parsers.
const NESTING_MAX: usize = 100;

/// The records of one aggregate, with their keys in tables that several of them may share.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Aggregate<'a> {
    pub(crate) partition_keys: Vec<&'a str>,
    pub(crate) hash_keys: Vec<&'a str>,
    pub(crate) records: Vec<Inner<'a>>,
}

/// One record of an aggregate; its keys are places in the tables, which they are within.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Inner<'a> {
    pub(crate) partition_key: usize,
    pub(crate) hash_key: Option<usize>,
    pub(crate) data: &'a [u8],
}

/// Read an aggregate; None where the data is none, or a damaged one.
///
/// Damaged is: a digest that does not match, protocol buffers that cannot be read or lack a required field, a key that is not in its
/// table or is not UTF-8. Unknown fields are passed over, as protocol buffers have it.
pub(crate) fn read(data: &[u8]) -> Option<Aggregate<'_>> {
    let (body, digest) = data
        .strip_prefix(&MAGIC)?
        .split_last_chunk::<DIGEST_BYTES>()?;
    // An empty body is not taken for an aggregate by the Kinesis Client Library either.
    if body.is_empty() || Md5::digest(body).as_slice() != digest {
        return None;
    }
    let mut found = Aggregate::default();
    fields(body, |number, value| {
        match (number, value) {
            (1, Value::Bytes(key)) => found.partition_keys.push(std::str::from_utf8(key).ok()?),
            (2, Value::Bytes(key)) => found.hash_keys.push(std::str::from_utf8(key).ok()?),
            (3, Value::Bytes(message)) => found.records.push(record(message)?),
            _ => {}
        }
        Some(())
    })?;
    // The tables may stand behind the records.
    let known = |record: &Inner<'_>| {
        record.partition_key < found.partition_keys.len()
            && record
                .hash_key
                .is_none_or(|key| key < found.hash_keys.len())
    };
    found.records.iter().all(known).then_some(found)
}

/// The hash of a partition key, which decides the shard: its MD5 (Kinesis API reference, `PutRecord`).
pub(crate) fn hash_of_key(partition_key: &str) -> u128 {
    u128::from_be_bytes(Md5::digest(partition_key).into())
}

fn record(message: &[u8]) -> Option<Inner<'_>> {
    let (mut partition_key, mut hash_key, mut data) = (None, None, None);
    fields(message, |number, value| {
        match (number, value) {
            // A place beyond what can be addressed is in no table.
            (1, Value::Varint(place)) => {
                partition_key = Some(usize::try_from(place).unwrap_or(usize::MAX));
            }
            (2, Value::Varint(place)) => {
                hash_key = Some(usize::try_from(place).unwrap_or(usize::MAX));
            }
            (3, Value::Bytes(bytes)) => data = Some(bytes),
            (4, Value::Bytes(message)) => tag(message)?,
            _ => {}
        }
        Some(())
    })?;
    Some(Inner {
        partition_key: partition_key?,
        hash_key,
        data: data?,
    })
}

/// Refuse a damaged tag. Producers write none, and nobody reads them.
fn tag(message: &[u8]) -> Option<()> {
    let mut named = false;
    fields(message, |number, value| {
        if let (1 | 2, Value::Bytes(text)) = (number, value) {
            std::str::from_utf8(text).ok()?;
            named |= number == 1;
        }
        Some(())
    })?;
    named.then_some(())
}

// Protocol buffers, as far as these messages need them (protobuf.dev, "Encoding").

enum Value<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    /// A number of fixed size, which none of these messages has.
    Fixed,
}

/// Call `each` with the number and value of every field; groups are passed over. None where the message is damaged, or `each` says so.
fn fields<'a>(
    mut rest: &'a [u8],
    mut each: impl FnMut(u64, Value<'a>) -> Option<()>,
) -> Option<()> {
    let mut groups: Vec<u64> = Vec::new();
    while !rest.is_empty() {
        let tag = varint(&mut rest)?;
        let number = tag >> 3;
        if !(1..1 << 29).contains(&number) {
            return None;
        }
        let value = match tag & 7 {
            0 => Value::Varint(varint(&mut rest)?),
            1 => take(&mut rest, 8).map(|_| Value::Fixed)?,
            2 => {
                let bytes = usize::try_from(varint(&mut rest)?).ok()?;
                Value::Bytes(take(&mut rest, bytes)?)
            }
            3 if groups.len() < NESTING_MAX => {
                groups.push(number);
                continue;
            }
            4 if groups.pop() == Some(number) => continue,
            5 => take(&mut rest, 4).map(|_| Value::Fixed)?,
            _ => return None,
        };
        if groups.is_empty() {
            each(number, value)?;
        }
    }
    groups.is_empty().then_some(())
}

fn take<'a>(rest: &mut &'a [u8], bytes: usize) -> Option<&'a [u8]> {
    let (head, tail) = rest.split_at_checked(bytes)?;
    *rest = tail;
    Some(head)
}

/// A number of at most ten bytes; what is above 64 bits is cut off.
fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..70).step_by(7) {
        let byte = take(rest, 1)?[0];
        // The tenth byte's upper bits fall off the top.
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}
