//! Snapshots of shards, and what people may do with stored ones.

use pyo3::prelude::*;
use pyo3::types::PyDict;
use streamcore::{Checkpoint as CoreCheckpoint, Position, SequenceNumber, Start, WindowPhase};

use crate::arguments::{self, starting};
use crate::errors::{checkpoint_error, config};

pub(crate) fn phase_name(phase: WindowPhase) -> &'static str {
    match phase {
        WindowPhase::Open => "open",
        WindowPhase::EndsEarly => "ends_early",
        WindowPhase::Restarted => "restarted",
        WindowPhase::Closed => "closed",
    }
}

#[pyclass(frozen, module = "streamcore._streamcore")]
#[derive(Debug)]
pub(crate) struct Checkpoint {
    pub(crate) shard: u32,
    pub(crate) snapshot: streamcore::Snapshot,
}

#[pymethods]
impl Checkpoint {
    #[getter]
    fn shard(&self) -> u32 {
        self.shard
    }

    #[getter]
    fn version(&self) -> u64 {
        self.snapshot.version
    }

    #[getter]
    fn ended(&self) -> bool {
        self.snapshot.checkpoint.ended
    }

    #[getter]
    fn expired(&self) -> u64 {
        self.snapshot.expired
    }

    #[getter]
    fn watermark(&self) -> Option<&str> {
        let watermark = self.snapshot.checkpoint.watermark.as_ref();
        watermark.map(|position| position.sequence.as_str())
    }

    #[getter]
    fn blob(&self) -> Vec<u8> {
        self.snapshot.checkpoint.encode()
    }

    #[staticmethod]
    fn inspect<'py>(py: Python<'py>, blob: &[u8]) -> PyResult<Bound<'py, PyDict>> {
        let checkpoint = CoreCheckpoint::decode(blob).map_err(|error| checkpoint_error(&error))?;
        let (start, at) = match checkpoint.start {
            Start::TrimHorizon => ("TRIM_HORIZON", None),
            Start::Latest(at) => ("LATEST", Some(at)),
            Start::AtTimestamp(at) => ("AT_TIMESTAMP", Some(at)),
        };
        let sequence = |position: &Option<Position>| {
            position
                .as_ref()
                .map(|position| position.sequence.as_str().to_owned())
        };
        let dict = PyDict::new(py);
        dict.set_item("mapping_uuid", &checkpoint.key.mapping_uuid)?;
        dict.set_item("stream_identity", &checkpoint.key.stream_identity)?;
        dict.set_item("shard_id", &checkpoint.key.shard_id)?;
        dict.set_item("starting_position", start)?;
        dict.set_item("starting_position_timestamp_ms", at)?;
        dict.set_item("watermark", sequence(&checkpoint.watermark))?;
        let lanes = checkpoint.tags().map(|tag| {
            let lanes = PyDict::new(py);
            lanes.set_item("lane_function", tag.lane_function)?;
            lanes.set_item("marks", tag.marks.iter().map(sequence).collect::<Vec<_>>())?;
            Ok(lanes)
        });
        dict.set_item("lanes", lanes.collect::<PyResult<Vec<_>>>()?)?;
        let window = checkpoint.window.map(|window| {
            let dict = PyDict::new(py);
            dict.set_item("start_ms", window.start_ms)?;
            dict.set_item("end_ms", window.end_ms)?;
            dict.set_item("phase", phase_name(window.phase))?;
            dict.set_item("state", String::from_utf8_lossy(&window.state))?;
            Ok::<_, PyErr>(dict)
        });
        dict.set_item("window", window.transpose()?)?;
        dict.set_item("ended", checkpoint.ended)?;
        Ok(dict)
    }

    #[staticmethod]
    #[pyo3(signature = (blob, start, *, timestamp_ms = None, sequence_number = None))]
    fn rewound(
        blob: &[u8],
        start: &str,
        #[pyo3(from_py_with = arguments::timestamp_ms)] timestamp_ms: Option<i64>,
        sequence_number: Option<&str>,
    ) -> PyResult<Vec<u8>> {
        let mut checkpoint =
            CoreCheckpoint::decode(blob).map_err(|error| checkpoint_error(&error))?;
        match (start, sequence_number) {
            ("AFTER_SEQUENCE_NUMBER", Some(number)) => {
                if timestamp_ms.is_some() {
                    return Err(config(
                        "timestamp_ms",
                        "timestamp_ms goes with LATEST and AT_TIMESTAMP, and start is AFTER_SEQUENCE_NUMBER",
                    ));
                }
                let sequence = SequenceNumber::parse(number)
                    .map_err(|error| config("sequence_number", error.to_string()))?;
                let watermark = Position {
                    sequence,
                    sub: u32::MAX,
                };
                checkpoint.rewind(checkpoint.start, Some(watermark));
            }
            ("AFTER_SEQUENCE_NUMBER", None) => {
                return Err(config(
                    "sequence_number",
                    "start is AFTER_SEQUENCE_NUMBER, and sequence_number is missing",
                ));
            }
            ("TRIM_HORIZON" | "LATEST" | "AT_TIMESTAMP", Some(_)) => {
                return Err(config(
                    "sequence_number",
                    format!(
                        "sequence_number goes with AFTER_SEQUENCE_NUMBER, and start is {start}"
                    ),
                ));
            }
            ("TRIM_HORIZON" | "LATEST" | "AT_TIMESTAMP", None) => {
                checkpoint.rewind(starting(start, timestamp_ms, "timestamp_ms", None)?, None);
            }
            (other, _) => {
                return Err(config(
                    "start",
                    format!(
                        "start is {other:?}, and must be 'TRIM_HORIZON', 'LATEST', 'AT_TIMESTAMP' or 'AFTER_SEQUENCE_NUMBER'"
                    ),
                ));
            }
        }
        Ok(checkpoint.encode())
    }
}
