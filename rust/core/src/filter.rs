//! Event filters: which records reach the function (Lambda developer guide, Control which events Lambda sends to your function).
//!
//! Patterns are compiled once, and run over the text of a record where it stands in its page; no value is built, and the record itself is
//! never touched. The base64 of Kinesis is decoded only where a pattern asks for `data`, into memory that is used again.
//!
//! What the operators mean is what AWS's Event Ruler does, but for what DESIGN.md lists. A record that no pattern matches is complete when
//! it is taken in.

mod machine;
mod pattern;
mod value;

use std::fmt;
use std::sync::Arc;

use crate::batch::ShardInfo;
use crate::error::PageError;
use crate::event::write_seconds;
use crate::filter::machine::{Machine, NodeId, Outcome, Run};
use crate::filter::pattern::Alternative;
use crate::filter::value::Scalar;
use crate::json::{Ends, Quotes, Scanner};
use crate::page::{Format, Page, Record};

/// The most characters of a pattern.
pub const PATTERN_CHARACTERS_MAX: usize = 4096;

/// Why a text is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("filter {filter} cannot be used: {what}, at byte {offset}")]
pub struct FilterError {
    /// Which of the filters, counted from 1.
    pub filter: usize,
    /// Where in its pattern.
    pub offset: usize,
    /// What is wrong.
    pub what: String,
}

/// The filters of a mapping, compiled. A record passes if one of them matches, or if there are none.
///
/// # Examples
///
/// ```
/// use streamcore::FilterCriteria;
///
/// let filter = FilterCriteria::new(&[r#"{"data": {"city": ["Oslo", {"prefix": "Ber"}], "snow": [{"numeric": [">", 0]}]}}"#])?;
/// assert!(filter.matches(r#"{"data": {"city": "Bergen", "snow": 2.5}}"#)?);
/// assert!(!filter.matches(r#"{"data": {"city": "Bergen", "snow": 0}}"#)?);
/// assert!(FilterCriteria::new(&[r#"{"data": {"city": "Oslo"}}"#]).is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct FilterCriteria {
    patterns: Vec<String>,
    machines: Vec<Machine>,
}

impl FilterCriteria {
    /// Compiles patterns.
    ///
    /// # Errors
    ///
    /// One of them is no pattern as Lambda takes it, is longer than [`PATTERN_CHARACTERS_MAX`], or has more than 1,024 combinations of
    /// alternatives.
    pub fn new(patterns: &[impl AsRef<str>]) -> Result<Self, FilterError> {
        let mut alternatives = Vec::new();
        for (filter, pattern) in (1..).zip(patterns) {
            let pattern = pattern.as_ref();
            let refuse = |offset, what| FilterError {
                filter,
                offset,
                what,
            };
            let characters = pattern.chars().count();
            if characters > PATTERN_CHARACTERS_MAX {
                let what = format!(
                    "it has {characters} characters, and {PATTERN_CHARACTERS_MAX} are allowed"
                );
                return Err(refuse(0, what));
            }
            let parsed =
                pattern::parse(pattern).map_err(|fault| refuse(fault.offset, fault.what))?;
            alternatives.extend(parsed);
        }
        let mut machines = Vec::new();
        if patterns.is_empty() {
            // An empty list of filters is none to Lambda: one alternative that asks for nothing.
            alternatives.push(Alternative::default());
        }
        while !alternatives.is_empty() {
            machines.push(Machine::new(&mut alternatives));
        }
        Ok(Self {
            patterns: patterns
                .iter()
                .map(|pattern| pattern.as_ref().to_owned())
                .collect(),
            machines,
        })
    }

    /// The patterns, as they were given.
    #[must_use]
    pub fn patterns(&self) -> &[String] {
        &self.patterns
    }

    /// Whether a pattern has a list of values, not an object, for a name at its top.
    #[must_use]
    pub fn wants_value_of(&self, name: &str) -> bool {
        self.machines
            .iter()
            .any(|machine| machine.wants_value_of(name))
    }

    /// Whether one of the patterns matches an event, or there is none. The event is a JSON object as patterns see it.
    ///
    /// # Errors
    ///
    /// It is not a JSON object.
    pub fn matches(&self, event: &str) -> Result<bool, PageError> {
        let mut outcomes = Vec::new();
        for machine in &self.machines {
            let mut scanner = Scanner::lenient(event.as_bytes());
            let accepted = Run::new(machine, &mut outcomes).text(&mut scanner)?;
            scanner.end()?;
            if accepted {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl fmt::Debug for FilterCriteria {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_tuple("FilterCriteria")
            .field(&self.patterns)
            .finish()
    }
}

impl PartialEq for FilterCriteria {
    fn eq(&self, other: &Self) -> bool {
        self.patterns == other.patterns
    }
}

impl Eq for FilterCriteria {}

/// What the records of one shard go through: the filters of its mapping, and the names that patterns may ask for.
///
/// It is a part of the shard that may be taken out of the engine's lock: judging a page is the one long step of an offer.
#[derive(Debug, Clone)]
pub struct Sieve {
    info: Arc<ShardInfo>,
    filter: Arc<FilterCriteria>,
}

/// Which records of a page pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sifted {
    pub(crate) passes: Vec<bool>,
}

impl Sifted {
    /// Of the records at these indices only.
    pub(crate) fn compact(&self, live: &[u32]) -> Self {
        Self {
            passes: live
                .iter()
                .map(|index| self.passes[*index as usize])
                .collect(),
        }
    }
}

impl Sieve {
    /// What a shard has; None where its mapping has no filters.
    pub(crate) fn of(info: &Arc<ShardInfo>) -> Option<Self> {
        let filter = info.config.mapping.filter.clone()?;
        Some(Self {
            info: Arc::clone(info),
            filter,
        })
    }

    /// Judges each record of a page.
    #[must_use]
    pub fn sift(&self, page: &Page) -> Sifted {
        self.sift_with(page, |_| {})
    }

    /// The same, with a call for the data of each record some time before they are read: the data of a large page are far from the
    /// processor, and a hint to fetch them is not to be had in safe code.
    #[must_use]
    pub fn sift_with(&self, page: &Page, mut fetch_ahead: impl FnMut(&[u8])) -> Sifted {
        let machines = &self.filter.machines;
        let wants_data = machines.iter().any(|machine| machine.root_has("data"));
        let mut outcomes = Vec::new();
        let mut bytes = Vec::new();
        let mut quotes = Vec::new();
        let mut later = page.records().skip(1);
        let passes = page.records().map(|record| match page.format() {
            Format::Kinesis => {
                if wants_data && let Some(later) = later.next() {
                    fetch_ahead(later.as_bytes().data_base64);
                }
                let data = wants_data
                    .then(|| record.payload_in(&mut bytes))
                    .flatten()
                    .and_then(|data| Data::of(data, &mut quotes));
                machines.iter().any(|machine| {
                    Run::new(machine, &mut outcomes)
                        .event(|run, name, node| self.kinesis(run, name, node, record, data))
                })
            }
            Format::DynamoDb => machines.iter().any(|machine| {
                Run::new(machine, &mut outcomes)
                    .event(|run, name, node| self.dynamodb(run, name, node, record))
            }),
        });
        Sifted {
            passes: passes.collect(),
        }
    }

    /// What a pattern sees of a record of Kinesis: `data` as JSON, and what else the event says of it, without the level `kinesis`.
    ///
    /// None for data that is not JSON: then nothing that speaks of it matches.
    fn kinesis(
        &self,
        run: &mut Run<'_>,
        name: &str,
        node: NodeId,
        record: Record<'_>,
        data: Option<Data<'_>>,
    ) -> Option<Outcome> {
        let identity = &self.info.config.identity;
        let text = match name {
            "data" => {
                let Data { bytes, quotes } = data?;
                let scanner = Scanner::lenient(bytes);
                return match quotes {
                    Some(quotes) => json(run, node, scanner.with_ends(quotes)),
                    None => json(run, node, scanner),
                };
            }
            "partitionKey" => record.key(),
            "sequenceNumber" => record.sequence().into(),
            "approximateArrivalTimestamp" => {
                let mut seconds = Vec::new();
                write_seconds(record.arrival_ms(), &mut seconds);
                return json(run, node, Scanner::lenient(&seconds));
            }
            "kinesisSchemaVersion" | "eventVersion" => "1.0".into(),
            "eventSource" => "aws:kinesis".into(),
            "eventName" => "aws:kinesis:record".into(),
            "eventID" => format!("{}:{}", self.info.config.key.shard_id, record.sequence()).into(),
            "invokeIdentityArn" => identity.execution_role_arn.as_str().into(),
            "awsRegion" => identity.aws_region.as_str().into(),
            "eventSourceARN" => identity.event_source_arn.as_str().into(),
            _ => return Some(Outcome::default()),
        };
        Some(run.scalar(node, &Scalar::Text(Some(text))))
    }

    /// What a pattern sees of a record of `DynamoDB`: the record as it stands in the event.
    fn dynamodb(
        &self,
        run: &mut Run<'_>,
        name: &str,
        node: NodeId,
        record: Record<'_>,
    ) -> Option<Outcome> {
        let identity = &self.info.config.identity;
        let text = match name {
            "dynamodb" => return json(run, node, Scanner::lenient(record.dynamodb_object()?)),
            "awsRegion" => &identity.aws_region,
            "eventSourceARN" => &identity.event_source_arn,
            _ => {
                let mut head = Scanner::lenient(record.dynamodb_head());
                return match find(&mut head, name) {
                    Ok(true) => run.value(&mut head, node).ok(),
                    _ => Some(Outcome::default()),
                };
            }
        };
        Some(run.scalar(node, &Scalar::Text(Some(text.into()))))
    }
}

/// The data of a record of Kinesis, in UTF-8.
#[derive(Debug, Clone, Copy)]
struct Data<'a> {
    bytes: &'a [u8],
    /// Known where they are plain, as nearly all are.
    quotes: Option<Quotes<'a>>,
}

impl<'a> Data<'a> {
    /// None if they are not UTF-8.
    fn of(bytes: &'a [u8], memory: &'a mut Vec<u32>) -> Option<Self> {
        let quotes = Quotes::of(bytes, memory);
        if quotes.is_none() {
            simdutf8::basic::from_utf8(bytes).ok()?;
        }
        Some(Self { bytes, quotes })
    }
}

/// Runs a value that is one JSON text in UTF-8; None if it is not JSON.
fn json<E: Ends>(run: &mut Run<'_>, node: NodeId, mut scanner: Scanner<'_, E>) -> Option<Outcome> {
    let outcome = run.value(&mut scanner, node).ok()?;
    scanner.end().ok()?;
    Some(outcome)
}

/// Goes to the value of a member in the head of a record of `DynamoDB`, which ends where the region begins.
fn find(head: &mut Scanner<'_>, wanted: &str) -> Result<bool, PageError> {
    let mut more = head.opens(b'{', b'}')?;
    while more {
        let name = head.name()?;
        let name = head.value(name)?;
        if name == wanted {
            return Ok(true);
        }
        if name == "awsRegion" {
            return Ok(false);
        }
        head.skip()?;
        more = head.goes_on(b'}', ", or }")?;
    }
    Ok(false)
}
