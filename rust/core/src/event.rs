//! The event that a function is called with, written from slices of pages (Lambda developer guide, Using Lambda with Kinesis).
//!
//! The keys stand in the order in which Lambda sends them, without white space. The size of an event is known before it is written:
//! [`ENVELOPE_BYTES`], for each record [`EventTemplate::record_bytes`] and [`Record::event_bytes`](crate::Record::event_bytes), and a
//! comma between records.

use std::ops::RangeInclusive;

use crate::json::escaped;
use crate::page::{Format, Page};
use crate::time::iso_seconds;
use crate::window::{Bounds, Window};

/// The bytes of an event without records, `{"Records":[]}`.
pub const ENVELOPE_BYTES: u32 = 14;

const HEAD: &str = r#"{"Records":["#;
const _: () = assert!(HEAD.len() + "]}".len() == ENVELOPE_BYTES as usize);

const KEY: &str = r#"{"kinesis":{"kinesisSchemaVersion":"1.0","partitionKey":""#;
const SEQUENCE: &str = r#"","sequenceNumber":""#;
const DATA: &str = r#"","data":""#;
const ARRIVAL: &str = r#"","approximateArrivalTimestamp":"#;

const WINDOW_END: &str = r#"","end":""#;
const STATE: &str = r#""},"state":"#;
const FINAL: &str = r#","isFinalInvokeForWindow":"#;
const EARLY: &str = r#","isWindowTerminatedEarly":"#;

/// The length of a window's first and last instant, as an event has them.
pub(crate) fn bounds_bytes(bounds: Bounds) -> u32 {
    let bytes = iso_seconds(bounds.start_ms).len() + iso_seconds(bounds.end_ms).len();
    u32::try_from(bytes).expect("an instant is a short text")
}

/// What an event is written to: a vector that grows, or memory of the event's size.
pub trait Sink {
    /// Append some bytes.
    fn put(&mut self, bytes: &[u8]);

    /// Says that these bytes will be put soon. Data of a large page are far from the processor, and may be fetched meanwhile.
    #[inline]
    fn announce(&mut self, bytes: &[u8]) {
        let _ = bytes;
    }
}

impl Sink for Vec<u8> {
    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// What is left of the memory.
///
/// # Panics
///
/// If an event is longer than the memory.
impl Sink for &mut [u8] {
    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        let (now, rest) = std::mem::take(self).split_at_mut(bytes.len());
        now.copy_from_slice(bytes);
        *self = rest;
    }
}

/// What an event says of the mapping and the shard, which no record knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventIdentity {
    /// The shard's id, the first half of `eventID`.
    pub shard_id: String,
    /// The ARN of the stream, or of the consumer for enhanced fan-out.
    pub event_source_arn: String,
    /// The ARN of the function's execution role.
    pub invoke_identity_arn: String,
    /// The region of the function.
    pub aws_region: String,
}

/// The constant parts of an event's records, made once per shard.
///
/// # Examples
///
/// ```
/// use streamcore::{ENVELOPE_BYTES, EventIdentity, EventTemplate, Format, PageBuilder};
///
/// let template = EventTemplate::new(&EventIdentity {
///     shard_id: "shardId-000000000000".into(),
///     event_source_arn: "arn:aws:kinesis:us-east-2:123456789012:stream/lambda-stream".into(),
///     invoke_identity_arn: "arn:aws:iam::123456789012:role/lambda-role".into(),
///     aws_region: "us-east-2".into(),
/// }, Format::Kinesis);
/// let mut builder = PageBuilder::new();
/// builder.push("1", b"Hello", 1_545_084_650_987, Some("4959"))?;
/// let page = builder.finish();
///
/// let mut event = Vec::new();
/// template.write(&mut event, [(&page, 0)]);
/// assert_eq!(
///     String::from_utf8_lossy(&event),
///     concat!(
///         r#"{"Records":[{"kinesis":{"kinesisSchemaVersion":"1.0","partitionKey":"1","sequenceNumber":"4959","#,
///         r#""data":"SGVsbG8=","approximateArrivalTimestamp":1545084650.987},"eventSource":"aws:kinesis","#,
///         r#""eventVersion":"1.0","eventID":"shardId-000000000000:4959","eventName":"aws:kinesis:record","#,
///         r#""invokeIdentityArn":"arn:aws:iam::123456789012:role/lambda-role","awsRegion":"us-east-2","#,
///         r#""eventSourceARN":"arn:aws:kinesis:us-east-2:123456789012:stream/lambda-stream"}]}"#,
///     )
/// );
/// let size = ENVELOPE_BYTES + template.record_bytes() + page.record(0).event_bytes();
/// assert_eq!(event.len(), size as usize);
/// # Ok::<(), streamcore::PageError>(())
/// ```
#[derive(Debug, Clone)]
pub struct EventTemplate {
    format: Format,
    /// From the arrival time to the sequence number in `eventID`.
    middle: Box<str>,
    /// From there to the end of the record, and to the key of the next one.
    end: Box<str>,
    between: Box<str>,
    /// Of `DynamoDB`: the region, and from the `dynamodb` object to the end of the record.
    region: Box<str>,
    dynamodb_end: Box<str>,
    /// Of an event with a tumbling window: from the end of the records to the window's first instant.
    window: Box<str>,
}

impl EventTemplate {
    /// Make the constant parts. The strings are escaped as JSON wants it.
    #[must_use]
    pub fn new(identity: &EventIdentity, format: Format) -> Self {
        let mut middle =
            String::from(r#"},"eventSource":"aws:kinesis","eventVersion":"1.0","eventID":""#);
        middle.push_str(&escaped(&identity.shard_id));
        middle.push(':');
        let mut end = String::from(r#"","eventName":"aws:kinesis:record""#);
        for (name, value) in [
            ("invokeIdentityArn", &identity.invoke_identity_arn),
            ("awsRegion", &identity.aws_region),
            ("eventSourceARN", &identity.event_source_arn),
        ] {
            end.push_str(",\"");
            end.push_str(name);
            end.push_str("\":\"");
            end.push_str(&escaped(value));
            end.push('"');
        }
        end.push('}');
        let between = [&*end, ",", KEY].concat();
        let region = escaped(&identity.aws_region);
        let mut dynamodb_end = String::from(r#","eventSourceARN":""#);
        dynamodb_end.push_str(&escaped(&identity.event_source_arn));
        dynamodb_end.push_str(r#""}"#);
        let mut window = String::from(r#","shardId":""#);
        window.push_str(&escaped(&identity.shard_id));
        window.push_str(r#"","eventSourceARN":""#);
        window.push_str(&escaped(&identity.event_source_arn));
        window.push_str(r#"","window":{"start":""#);
        Self {
            format,
            middle: middle.into(),
            end: end.into(),
            between: between.into(),
            region: region.into(),
            dynamodb_end: dynamodb_end.into(),
            window: window.into(),
        }
    }

    /// The constant bytes that each record adds to an event, without the comma between records.
    ///
    /// # Panics
    ///
    /// If the identity has strings of more than 4 GiB.
    #[must_use]
    pub fn record_bytes(&self) -> u32 {
        let bytes = match self.format {
            Format::Kinesis => {
                KEY.len()
                    + SEQUENCE.len()
                    + DATA.len()
                    + ARRIVAL.len()
                    + self.middle.len()
                    + self.end.len()
            }
            Format::DynamoDb => self.region.len() + self.dynamodb_end.len(),
        };
        u32::try_from(bytes).expect("an identity of less than 4 GiB")
    }

    /// The bytes that a tumbling window adds to an event beside the text of its bounds and its state.
    pub(crate) fn window_constant_bytes(&self) -> u32 {
        // The flags are counted at their longest, so that an event is never larger than was thought when it was cut.
        let flags = 2 * "false".len();
        let bytes = self.window.len() + WINDOW_END.len() + STATE.len() + FINAL.len() + EARLY.len();
        u32::try_from(bytes + flags).expect("an identity of less than 4 GiB")
    }

    /// The most bytes that a tumbling window with these bounds and this state adds to an event.
    pub(crate) fn window_bytes(&self, bounds: Bounds, state: &[u8]) -> usize {
        self.window_constant_bytes() as usize + bounds_bytes(bounds) as usize + state.len()
    }

    /// Append the event of some records of a tumbling window.
    pub(crate) fn write_in_window<'a>(
        &self,
        out: &mut impl Sink,
        records: impl IntoIterator<Item = (&'a Page, u32)>,
        window: &Window,
    ) {
        self.write_records(out, records);
        let flag = |value| if value { "true" } else { "false" };
        for part in [
            &*self.window,
            &iso_seconds(window.start_ms()),
            WINDOW_END,
            &iso_seconds(window.end_ms()),
            STATE,
        ] {
            out.put(part.as_bytes());
        }
        out.put(window.state());
        for part in [
            FINAL,
            flag(window.is_final()),
            EARLY,
            flag(window.is_terminated_early()),
            "}",
        ] {
            out.put(part.as_bytes());
        }
    }

    /// Append the event of some records. Each is named by its page and its index there.
    ///
    /// # Panics
    ///
    /// If a page has no record at an index.
    pub fn write<'a>(
        &self,
        out: &mut impl Sink,
        records: impl IntoIterator<Item = (&'a Page, u32)>,
    ) {
        self.write_records(out, records);
        out.put(b"}");
    }

    fn write_records<'a, S: Sink>(
        &self,
        out: &mut S,
        records: impl IntoIterator<Item = (&'a Page, u32)>,
    ) {
        out.put(HEAD.as_bytes());
        let mut records = records.into_iter();
        let mut announced = |out: &mut S| {
            let record = records.next();
            if let Some((page, index)) = record {
                out.announce(page.record(index as usize).data_and_behind());
            }
            record
        };
        // The two that come next.
        let mut soon = [announced(out), announced(out)];
        if soon[0].is_some() && self.format == Format::Kinesis {
            out.put(KEY.as_bytes());
        }
        while let Some((page, index)) = soon[0] {
            soon = [soon[1], announced(out)];
            let is_last = soon[0].is_none();
            debug_assert_eq!(page.format(), self.format);
            match self.format {
                Format::Kinesis => self.write_kinesis(out, page, index as usize, is_last),
                Format::DynamoDb => self.write_dynamodb(out, page, index as usize, is_last),
            }
        }
        out.put(b"]");
    }

    /// Append a record from its key on, and the next one up to its key.
    #[inline]
    fn write_kinesis(&self, out: &mut impl Sink, page: &Page, index: usize, is_last: bool) {
        let record = page.record(index);
        let texts = record.as_bytes();
        out.put(texts.key_json);
        out.put(SEQUENCE.as_bytes());
        out.put(texts.sequence);
        out.put(DATA.as_bytes());
        out.put(texts.data_base64);
        out.put(ARRIVAL.as_bytes());
        write_seconds(record.arrival_ms(), out);
        out.put(self.middle.as_bytes());
        out.put(texts.sequence);
        out.put(if is_last { &self.end } else { &self.between }.as_bytes());
    }

    #[inline]
    fn write_dynamodb(&self, out: &mut impl Sink, page: &Page, index: usize, is_last: bool) {
        let record = page.record(index);
        out.put(record.dynamodb_head());
        out.put(self.region.as_bytes());
        out.put(record.dynamodb_data());
        out.put(self.dynamodb_end.as_bytes());
        if !is_last {
            out.put(b",");
        }
    }
}

/// Append milliseconds as seconds, without trailing zeros: 1500 is `1.5`, -2000 is `-2`.
#[inline]
pub(crate) fn write_seconds(ms: i64, out: &mut impl Sink) {
    let (seconds, fraction) = (ms.unsigned_abs() / 1000, ms.unsigned_abs() % 1000);
    if ms < 0 || !TEN_DIGITS.contains(&seconds) {
        return write_any_seconds(ms, out);
    }
    // The last two digits before the point, and what stands behind it.
    let [first, last] =
        [seconds / 100, seconds % 100 * 1_000_000 + fraction * 100].map(eight_digits);
    let last = last ^ u64::from(b'0' ^ b'.') << 16;
    let length = match fraction_digits(fraction) {
        0 => 2,
        digits => 3 + digits,
    };
    // In two words, as they are in registers. To read in one piece what was just written in several waits until all of that, and what
    // was written before, has left the processor.
    out.put(&first.to_le_bytes());
    out.put(&last.to_le_bytes()[..length]);
}

/// Seconds of ten digits: the years 2001 to 2286.
const TEN_DIGITS: RangeInclusive<u64> = 1_000_000_000..=9_999_999_999;

/// A number of eight digits as text, of which the lowest byte is the first one.
#[inline]
fn eight_digits(number: u64) -> u64 {
    let fours = (number / 10_000) | ((number % 10_000) << 32);
    let hundreds = (fours * 10_486) >> 20 & 0x0000_007f_0000_007f;
    let twos = hundreds | (fours - 100 * hundreds) << 16;
    let tens = (twos * 103) >> 10 & 0x000f_000f_000f_000f;
    (tens | (twos - 10 * tens) << 8) + 0x3030_3030_3030_3030
}

#[cold]
fn write_any_seconds(ms: i64, out: &mut impl Sink) {
    if ms < 0 {
        out.put(b"-");
    }
    let (seconds, ms) = (ms.unsigned_abs() / 1000, ms.unsigned_abs() % 1000);
    out.put(itoa::Buffer::new().format(seconds).as_bytes());
    if ms > 0 {
        let digit = |value: u64| b'0' + u8::try_from(value % 10).unwrap_or_default();
        let fraction = [b'.', digit(ms / 100), digit(ms / 10), digit(ms)];
        out.put(&fraction[..=fraction_digits(ms)]);
    }
}

/// The length of what [`write_seconds`] appends.
pub(crate) fn seconds_bytes(ms: i64) -> u32 {
    let (seconds, fraction) = (ms.unsigned_abs() / 1000, ms.unsigned_abs() % 1000);
    let point_and_fraction = match fraction_digits(fraction) {
        0 => 0,
        digits => 1 + u32::try_from(digits).unwrap_or_default(),
    };
    let digits = if TEN_DIGITS.contains(&seconds) {
        10
    } else {
        seconds.checked_ilog10().unwrap_or_default() + 1
    };
    u32::from(ms < 0) + digits + point_and_fraction
}

/// Digits after the point that milliseconds below a second need.
fn fraction_digits(ms: u64) -> usize {
    match ms {
        0 => 0,
        ms if ms % 100 == 0 => 1,
        ms if ms % 10 == 0 => 2,
        _ => 3,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(ms: i64) {
        let (mut seconds, mut any) = (Vec::new(), Vec::new());
        write_seconds(ms, &mut seconds);
        write_any_seconds(ms, &mut any);
        assert_eq!(seconds, any, "{ms}");
        assert_eq!(seconds.len(), seconds_bytes(ms) as usize, "{ms}");
    }

    #[test]
    fn seconds_of_ten_digits_are_written_as_others_are() {
        for second in [
            999_999_999,
            1_000_000_000,
            1_700_000_000,
            9_999_999_999,
            10_000_000_000,
        ] {
            for ms in 0..1000 {
                check(second * 1000 + ms);
                check(-(second * 1000 + ms));
            }
        }
        for eight in [0, 1, 9_999, 10_000, 12_345_678, 99_999_999] {
            let text = eight_digits(eight).to_le_bytes();
            assert_eq!(text, format!("{eight:08}").as_bytes());
        }
    }

    proptest! {
        #[test]
        fn seconds_are_written_the_same_at_any_time(ms in any::<i32>(), far in any::<i64>(), usual in 1_000_000_000_000..10_000_000_000_000_i64) {
            for ms in [ms.into(), far / 1024, usual] {
                check(ms);
            }
        }
    }
}
