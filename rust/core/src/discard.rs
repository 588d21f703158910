//! Records given up, and what is told of them to an on-failure destination.

use std::fmt::Write;
use std::sync::Arc;

use crate::batch::{Response, ShardInfo, Ticket};
use crate::config::ShardConfig;
use crate::json::escaped;
use crate::page::Format;
use crate::records::Records;
use crate::time::{iso_ms, iso_seconds};
use crate::window::Window;

/// Why records were given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// `MaximumRetryAttempts` is used up.
    RetryAttemptsExhausted,
    /// `MaximumRecordAgeInSeconds` is exceeded.
    RecordAgeExceeded,
}

impl Condition {
    /// The name that AWS gives it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RetryAttemptsExhausted => "RetryAttemptsExhausted",
            Self::RecordAgeExceeded => "RecordAgeExceeded",
        }
    }
}

/// How the way of a discard ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confirmation {
    /// It has reached its destination.
    Delivered,
    /// It is given up; as on AWS, nothing tells of it.
    GivenUp,
}

/// Names a discard until it is confirmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DiscardId(pub(crate) Ticket);

impl DiscardId {
    /// The id as a number, to carry it elsewhere.
    #[must_use]
    pub fn to_u64(self) -> u64 {
        self.0.to_u64()
    }

    /// The id of a number made by [`Self::to_u64`].
    #[must_use]
    pub fn from_u64(number: u64) -> Self {
        Self(Ticket::from_u64(number))
    }

    /// The handle of its shard.
    #[must_use]
    pub fn shard(self) -> u32 {
        self.0.shard()
    }
}

/// Records given up. Their lane goes on; the checkpoint waits for [`Engine::confirm`](crate::Engine::confirm).
#[derive(Debug, Clone)]
pub struct Discard {
    pub(crate) id: DiscardId,
    pub(crate) condition: Condition,
    pub(crate) invoke_count: u32,
    pub(crate) request_id: String,
    pub(crate) response: Option<Box<Response>>,
    pub(crate) at_ms: i64,
    pub(crate) info: Arc<ShardInfo>,
    pub(crate) records: Records,
    pub(crate) window: Option<Window>,
}

impl Discard {
    /// What [`Engine::confirm`](crate::Engine::confirm) takes.
    #[must_use]
    pub fn id(&self) -> DiscardId {
        self.id
    }

    /// Why the records were given up.
    #[must_use]
    pub fn condition(&self) -> Condition {
        self.condition
    }

    /// Attempts that the batch had, at least 1.
    #[must_use]
    pub fn approximate_invoke_count(&self) -> u32 {
        self.invoke_count
    }

    /// The request id of the last attempt.
    #[must_use]
    pub fn request_id(&self) -> &str {
        &self.request_id
    }

    /// What the function's service said of the last attempt; None where no function answered, as `responseContext` is absent then.
    #[must_use]
    pub fn response(&self) -> Option<&Response> {
        self.response.as_deref()
    }

    /// The shard, its mapping and the names in its events.
    #[must_use]
    pub fn config(&self) -> &ShardConfig {
        &self.info.config
    }

    /// How many records it has: at least one, but for the closing call of a tumbling window.
    #[must_use]
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether it has no records: it is the closing call of a tumbling window.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// The tumbling window of its event; None for a mapping without one.
    #[must_use]
    pub fn window(&self) -> Option<&Window> {
        self.window.as_ref()
    }

    /// The records in order.
    #[must_use]
    pub fn records(&self) -> &Records {
        &self.records
    }

    /// The event of these records as JSON.
    #[must_use]
    pub fn json(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.records
            .write_event(&self.info.template, self.window.as_ref(), &mut out);
        out
    }

    /// The invocation record that AWS sends to an on-failure destination, as JSON with AWS's key order.
    ///
    /// `responseContext` is absent where no function answered: records too old, and records too large.
    /// Source: Lambda developer guide, "Configuring destinations for failed invocations".
    #[must_use]
    pub fn invocation_record(&self) -> String {
        let mut out = String::with_capacity(1024);
        let text = |out: &mut String, key: &str, value: &str| {
            let _ = write!(out, "\"{key}\":\"{}\"", escaped(value));
        };
        out.push_str("{\"requestContext\":{");
        text(&mut out, "requestId", &self.request_id);
        out.push(',');
        text(
            &mut out,
            "functionArn",
            &self.config().identity.function_arn,
        );
        let _ = write!(
            out,
            ",\"condition\":\"{}\",\"approximateInvokeCount\":{}}}",
            self.condition.as_str(),
            self.invoke_count
        );
        if let Some(response) = &self.response {
            let _ = write!(
                out,
                ",\"responseContext\":{{\"statusCode\":{}",
                response.status_code
            );
            for (key, value) in [
                ("executedVersion", &response.executed_version),
                ("functionError", &response.function_error),
            ] {
                out.push(',');
                match value {
                    Some(value) => text(&mut out, key, value),
                    None => {
                        let _ = write!(out, "\"{key}\":null");
                    }
                }
            }
            out.push('}');
        }
        let _ = write!(
            out,
            ",\"version\":\"1.0\",\"timestamp\":\"{}\"",
            iso_ms(self.at_ms)
        );
        // Kinesis stamps arrivals to the millisecond, DynamoDB Streams to the second.
        let (info, iso): (_, fn(i64) -> String) = match self.config().format {
            Format::Kinesis => ("KinesisBatchInfo", iso_ms),
            Format::DynamoDb => ("DDBStreamBatchInfo", iso_seconds),
        };
        let _ = write!(out, ",\"{info}\":{{");
        text(&mut out, "shardId", &self.config().key.shard_id);
        // The closing call of a window has no records to tell of.
        if let (Some(first), Some(last)) = (self.records.first(), self.records.last()) {
            let _ = write!(
                out,
                ",\"startSequenceNumber\":\"{}\",\"endSequenceNumber\":\"{}\"",
                first.sequence(),
                last.sequence()
            );
            let _ = write!(
                out,
                ",\"approximateArrivalOfFirstRecord\":\"{}\",\"approximateArrivalOfLastRecord\":\"{}\",\"batchSize\":{}",
                iso(first.arrival_ms()),
                iso(last.arrival_ms()),
                self.records.len()
            );
        }
        out.push(',');
        text(
            &mut out,
            "streamArn",
            &self.config().identity.event_source_arn,
        );
        out.push('}');
        if let Some(window) = &self.window {
            let _ = write!(
                out,
                ",\"timeWindowInfo\":{{\"window\":{{\"start\":\"{}\",\"end\":\"{}\"}},\"isFinalInvokeForWindow\":{},\"isWindowTerminatedEarly\":{}}}",
                iso_seconds(window.start_ms()),
                iso_seconds(window.end_ms()),
                window.is_final(),
                window.is_terminated_early()
            );
        }
        out.push('}');
        out
    }
}
