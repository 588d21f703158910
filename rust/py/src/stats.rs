//! What a shard tells of itself.

use std::sync::Arc;

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};
use streamcore::{Age, CheckpointKey, Distribution, LaneState, ShardState};

use crate::checkpoint::phase_name;

/// Counts by bucket, their sum, and the extremes of the last minutes: minute, least, greatest.
type Distributed = (Vec<u64>, u64, Vec<(i64, u64, u64)>);

/// The buckets behind the last one that has a value are left out.
fn distributed(distribution: &Distribution) -> Distributed {
    let counts = distribution.counts();
    let used = counts
        .iter()
        .rposition(|count| *count > 0)
        .map_or(0, |last| last + 1);
    let extremes = distribution
        .minutes()
        .map(|minute| (minute.minute, minute.least, minute.greatest));
    (
        counts[..used].to_vec(),
        distribution.sum(),
        extremes.collect(),
    )
}

#[pyclass(frozen, module = "streamcore._streamcore")]
#[derive(Debug)]
pub(crate) struct ShardStats {
    pub(crate) stats: streamcore::ShardStats,
    pub(crate) key: Arc<CheckpointKey>,
}

#[pymethods]
impl ShardStats {
    #[getter]
    fn shard_id(&self) -> &str {
        &self.key.shard_id
    }

    #[getter]
    fn mapping_uuid(&self) -> &str {
        &self.key.mapping_uuid
    }

    #[getter]
    fn state(&self) -> &'static str {
        match self.stats.state {
            ShardState::Running => "running",
            ShardState::Paused => "paused",
            ShardState::Draining => "draining",
            ShardState::Drained => "drained",
            ShardState::Ended => "ended",
        }
    }

    #[getter]
    fn held_records(&self) -> u64 {
        self.stats.held_records
    }

    #[getter]
    fn held_bytes(&self) -> usize {
        self.stats.held_bytes
    }

    #[getter]
    fn span(&self) -> u64 {
        self.stats.span
    }

    #[getter]
    fn in_flight(&self) -> usize {
        self.stats.in_flight
    }

    #[getter]
    fn unconfirmed_discards(&self) -> usize {
        self.stats.unconfirmed_discards
    }

    #[getter]
    fn watermark(&self) -> Option<&str> {
        self.stats
            .watermark
            .as_ref()
            .map(|position| position.sequence.as_str())
    }

    #[getter]
    fn last_taken_in(&self) -> Option<&str> {
        self.stats
            .last_taken_in
            .as_ref()
            .map(|position| position.sequence.as_str())
    }

    #[getter]
    fn millis_behind(&self) -> Option<i64> {
        self.stats.millis_behind
    }

    #[getter]
    fn records(&self) -> u64 {
        self.stats.counters.records
    }

    #[getter]
    fn duplicates(&self) -> u64 {
        self.stats.counters.duplicates
    }

    #[getter]
    fn already_complete(&self) -> u64 {
        self.stats.counters.already_complete
    }

    #[getter]
    fn filtered(&self) -> u64 {
        self.stats.counters.filtered
    }

    #[getter]
    fn succeeded(&self) -> u64 {
        self.stats.counters.succeeded
    }

    #[getter]
    fn discarded(&self) -> u64 {
        self.stats.counters.discarded
    }

    #[getter]
    fn discards(&self) -> u64 {
        self.stats.counters.discards
    }

    #[getter]
    fn expired(&self) -> u64 {
        self.stats.counters.expired
    }

    #[getter]
    fn invocations(&self) -> u64 {
        self.stats.counters.invocations
    }

    #[getter]
    fn failed_invocations(&self) -> u64 {
        self.stats.counters.failed_invocations
    }

    #[getter]
    fn failed_records(&self) -> u64 {
        self.stats.counters.failed_records
    }

    #[getter]
    fn unsaved(&self) -> bool {
        self.stats.unsaved
    }

    #[getter]
    fn sent(&self) -> Option<(i64, i64)> {
        self.stats.sent.map(|Age { ms, at_ms }| (ms, at_ms))
    }

    #[getter]
    fn finished(&self) -> Option<(i64, i64)> {
        self.stats.finished.map(|Age { ms, at_ms }| (ms, at_ms))
    }

    #[getter]
    fn batch_records(&self) -> Distributed {
        distributed(&self.stats.distributions.batch_records)
    }

    #[getter]
    fn event_bytes(&self) -> Distributed {
        distributed(&self.stats.distributions.event_bytes)
    }

    #[getter]
    fn handler_ms(&self) -> Distributed {
        distributed(&self.stats.distributions.handler_ms)
    }

    #[getter]
    fn iterator_ages_sent_ms(&self) -> Distributed {
        distributed(&self.stats.distributions.iterator_ages_sent_ms)
    }

    #[getter]
    fn iterator_ages_ms(&self) -> Distributed {
        distributed(&self.stats.distributions.iterator_ages_ms)
    }

    #[getter]
    fn retries(&self) -> u64 {
        self.stats.counters.retries
    }

    #[getter]
    fn throttles(&self) -> u64 {
        self.stats.counters.throttles
    }

    #[getter]
    fn windows_closed(&self) -> u64 {
        self.stats.counters.windows_closed
    }

    #[getter]
    fn windows_ended_early(&self) -> u64 {
        self.stats.counters.windows_ended_early
    }

    #[getter]
    fn window<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyDict>>> {
        let window = self.stats.window.map(|window| {
            let dict = PyDict::new(py);
            dict.set_item(intern!(py, "start_ms"), window.start_ms)?;
            dict.set_item(intern!(py, "end_ms"), window.end_ms)?;
            dict.set_item(intern!(py, "phase"), phase_name(window.phase))?;
            dict.set_item(intern!(py, "state_bytes"), window.state_bytes)?;
            dict.set_item(intern!(py, "closing"), window.closing)?;
            Ok(dict)
        });
        window.transpose()
    }

    #[getter]
    fn lanes<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyDict>>> {
        let lanes = self.stats.lanes.iter().map(|lane| {
            let (state, until) = match lane.state {
                LaneState::Empty => ("empty", None),
                LaneState::Waiting(until) => ("waiting", Some(until)),
                LaneState::Ready => ("ready", None),
                LaneState::InFlight(_) => ("in_flight", None),
                LaneState::Parked(until) => ("parked", Some(until)),
            };
            let dict = PyDict::new(py);
            dict.set_item(intern!(py, "state"), PyString::new(py, state))?;
            dict.set_item(intern!(py, "records"), lane.records)?;
            dict.set_item(intern!(py, "attempts"), lane.attempts)?;
            dict.set_item(intern!(py, "until"), until)?;
            dict.set_item(
                intern!(py, "first_sequence_number"),
                lane.first_sequence_number.as_deref(),
            )?;
            Ok(dict)
        });
        lanes.collect()
    }
}
