//! Records as AWS writes most of them: no blank, no escape, no member but those of Kinesis, nothing but ASCII apart from keys.
//!
//! They are read one after the other in one function that has the widest vectors of the machine: to call such a function takes as long
//! as to read a short string.
#![expect(
    clippy::inline_always,
    reason = "only what is inlined has the vectors of `dispatch`"
)]

use fearless_simd::{Level, Simd, dispatch};

use crate::decode::{Decoded, integer};
use crate::json::{Digits, Scanner, ascii_end, short_number};
use crate::lanes::key_hash;
use crate::page::{Entry, KEY_BYTES_MAX, Span, check_arrival};
use crate::position::{compare_sequences, is_sequence};

/// A body is fetched so many bytes before it is read: some of the machine's pages, of which each new one is slow to begin with.
const FETCHED_AHEAD: usize = 16 << 10;
/// So many bytes at once, of which the compiler knows how many they are.
const FETCHED: usize = 512;

/// Where plain records end.
pub(super) struct End {
    /// Behind the last one, or where one begins that is not plain.
    pub(super) at: usize,
    /// Whether one begins there.
    pub(super) is_odd: bool,
}

/// Read records, of which the first one begins at `start`, for as long as they are plain and nothing but a comma stands between them.
pub(super) fn read(
    body: &[u8],
    start: usize,
    decoded: &mut Decoded,
    fetch_ahead: &mut impl FnMut(&[u8]),
) -> End {
    dispatch!(Level::new(), simd => records(simd, body, start, decoded, fetch_ahead))
}

#[inline(always)]
fn records<S: Simd>(
    simd: S,
    body: &[u8],
    start: usize,
    decoded: &mut Decoded,
    fetch_ahead: &mut impl FnMut(&[u8]),
) -> End {
    let mut at = start;
    let mut fetched = start + FETCHED_AHEAD;
    let last = decoded.entries.last().filter(|_| decoded.ascending);
    let mut previous = last.map_or(&[][..], |entry| entry.sequence().of(body));
    let mut previous_digits = Digits::none(simd);
    loop {
        let Some(record) = record(simd, body, at) else {
            return End { at, is_odd: true };
        };
        let Record { entry, digits, end } = record;
        while fetched < end + FETCHED_AHEAD {
            if let Some(chunk) = body.get(fetched..).and_then(<[u8]>::first_chunk::<FETCHED>) {
                fetch_ahead(chunk);
            }
            fetched += FETCHED;
        }
        let sequence = entry.sequence().of(body);
        if !previous_digits.are_below(digits) {
            decoded.ascending &= compare_sequences(previous, sequence).is_lt();
        }
        (previous, previous_digits) = (sequence, digits);
        decoded.entries.push(entry);
        if body.get(end..end + 2) != Some(b",{") {
            return End {
                at: end,
                is_odd: false,
            };
        }
        at = end + 1;
    }
}

struct Record<S: Simd> {
    entry: Entry,
    /// Of the sequence number.
    digits: Digits<S>,
    end: usize,
}

#[inline(always)]
fn record<S: Simd>(simd: S, body: &[u8], start: usize) -> Option<Record<S>> {
    let (mut key, mut sequence, mut data, mut arrival) = (None, None, None, None);
    let mut digits = Digits::none(simd);
    let mut at = after(body, start, b"{")?;
    loop {
        match body.get(at + 1)? {
            b'A' => {
                let value = after(body, at, br#""ApproximateArrivalTimestamp":"#)?;
                let (arrival_ms, end) = match short_number(body, value, 3) {
                    Some(number) => number,
                    None => any_number(body, value)?,
                };
                check_arrival(0, "ApproximateArrivalTimestamp", arrival_ms).ok()?;
                arrival = Some(arrival_ms);
                at = end;
            }
            b'D' => {
                let start = after(body, at, br#""Data":""#)?;
                let end = ascii_end(simd, body, start)?;
                data = Some(Span::new(start, end));
                at = end + 1;
            }
            b'E' => {
                let start = after(body, at, br#""EncryptionType":""#)?;
                at = ascii_end(simd, body, start)? + 1;
            }
            b'P' => {
                let start = after(body, at, br#""PartitionKey":""#)?;
                let end = match ascii_end(simd, body, start) {
                    Some(end) => end,
                    None => text_end(body, start)?,
                };
                key = Some(Span::new(start, end));
                at = end + 1;
            }
            b'S' => {
                let start = after(body, at, br#""SequenceNumber":""#)?;
                let end = if let Some(found) = Digits::at(simd, body, start) {
                    digits = found;
                    start + found.count
                } else {
                    digits = Digits::none(simd);
                    sequence_end(body, start)?
                };
                sequence = Some(Span::new(start, end));
                at = after(body, end, b"\"")?;
            }
            _ => return None,
        }
        match body.get(at)? {
            b',' => at += 1,
            b'}' => break,
            _ => return None,
        }
    }
    let (key, sequence, data, arrival_ms) = (key?, sequence?, data?, arrival?);
    let key_text = key.of(body);
    (key_text.len() <= KEY_BYTES_MAX).then(|| Record {
        entry: Entry::new(key, sequence, data, arrival_ms, key_hash(key_text)),
        digits,
        end: at + 1,
    })
}

/// Where a text ends that must stand at a place.
#[inline(always)]
fn after<const N: usize>(body: &[u8], at: usize, text: &[u8; N]) -> Option<usize> {
    (body.get(at..)?.first_chunk() == Some(text)).then_some(at + N)
}

/// A number of any form in thousandths, and where it ends.
#[cold]
fn any_number(body: &[u8], at: usize) -> Option<(i64, usize)> {
    let mut scanner = Scanner::new(body);
    scanner.go_to(at);
    let thousandths = integer(&mut scanner, "ApproximateArrivalTimestamp", 3).ok()?;
    Some((thousandths, scanner.offset()))
}

/// Where a string without escapes ends, also where it is not ASCII.
#[cold]
fn text_end(body: &[u8], start: usize) -> Option<usize> {
    let mut scanner = Scanner::new(body);
    scanner.go_to(start);
    Some(scanner.plain_text_rest()?.end)
}

/// Where a sequence number of any length ends.
#[cold]
fn sequence_end(body: &[u8], start: usize) -> Option<usize> {
    let digits = body[start..]
        .iter()
        .take_while(|byte| byte.is_ascii_digit());
    let end = start + digits.count();
    is_sequence(&body[start..end]).then_some(end)
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    #[test]
    fn vectors_of_every_width_read_the_same() {
        let level = Level::new();
        let mut read = 0;
        for length in (0..140).chain([191, 192, 255, 256, 257, 1000]) {
            let records: Vec<_> = (0..4)
                .map(|index| {
                    format!(
                        r#"{{"ApproximateArrivalTimestamp":170000000{index}.5,"Data":"{}","PartitionKey":"{}","SequenceNumber":"{:056}"}}"#,
                        "D".repeat(length + index),
                        "k".repeat(length / (index + 1)),
                        length + index + 1,
                    )
                })
                .collect();
            for stop in ["", ",{ }", ",{\"", ",{\"Data\":\"é\"}", "]}"] {
                let body = records.join(",") + stop;
                let all = |end: End, decoded: &Decoded| {
                    (
                        end.at,
                        end.is_odd,
                        decoded.ascending,
                        decoded.entries.clone(),
                    )
                };
                let decoded = || Decoded {
                    ascending: true,
                    ..Decoded::default()
                };
                let usual = {
                    let mut decoded = decoded();
                    let end = super::read(body.as_bytes(), 0, &mut decoded, &mut |_| {});
                    all(end, &decoded)
                };
                assert_eq!(usual.3.len(), 4, "{body}");
                assert!(usual.2, "{body}");
                assert_eq!(usual.1, stop.starts_with(",{"), "{body}");
                macro_rules! check {
                    ($simd:expr) => {
                        if let Some(simd) = $simd {
                            let mut decoded = decoded();
                            let end =
                                super::records(simd, body.as_bytes(), 0, &mut decoded, &mut |_| {});
                            assert_eq!(all(end, &decoded), usual, "{body}");
                            read += 1;
                        }
                    };
                }
                check!(level.as_sse2());
                check!(level.as_sse4_2());
                check!(level.as_avx2());
                check!(level.as_avx512());
            }
        }
        assert!(read > 700, "{read}");
    }
}
