//! Pages: parsed outside the engine's lock, shared with it and not copied.

use std::sync::Arc;

use bytes::Bytes;
use pyo3::exceptions::{PyOverflowError, PyTypeError, PyUnicodeError};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyBytes, PyString, PyTuple};
use streamcore::{Format, PageBuilder, SequenceNumber};

use crate::errors::{config, page, page_error};
use crate::objects::fetch_ahead;

/// Bodies of at least so many bytes are read with the interpreter released.
pub(crate) const DETACH_BYTES: usize = 64 << 10;

/// The format of a name that Python uses.
pub(crate) fn format_named(name: &str) -> PyResult<Format> {
    match name {
        "kinesis" => Ok(Format::Kinesis),
        "dynamodb" => Ok(Format::DynamoDb),
        other => Err(config(
            "format",
            format!("format is {other:?}, and must be 'kinesis' or 'dynamodb'"),
        )),
    }
}

/// The parts of a record that is handed over.
const PARTS: &str = "(partition key, payload, arrival time in ms, sequence number or None)";

#[pyclass(frozen, module = "streamcore._streamcore")]
#[derive(Debug)]
pub(crate) struct ChildShard {
    #[pyo3(get)]
    shard_id: String,
    #[pyo3(get)]
    parent_shards: Vec<String>,
}

#[pymethods]
impl ChildShard {
    fn __repr__(&self) -> String {
        format!(
            "ChildShard({:?}, parent_shards={:?})",
            self.shard_id, self.parent_shards
        )
    }
}

/// Adds a record that was handed over as a tuple. An error says which record it is, and what it should be.
fn push(builder: &mut PageBuilder, index: usize, record: &Bound<'_, PyAny>) -> PyResult<()> {
    let wrong = |what: &str, found: &Bound<'_, PyAny>| -> PyErr {
        match found.get_type().name() {
            Ok(name) => PyTypeError::new_err(format!("record {index}: {what}, not {name}")),
            Err(error) => error,
        }
    };
    let Ok(parts) = record.cast::<PyTuple>() else {
        return Err(wrong(&format!("it must be a tuple {PARTS}"), record));
    };
    let count = parts.len();
    if count != 4 {
        return Err(PyTypeError::new_err(format!(
            "record {index}: it must be a tuple {PARTS}, not one of {count}"
        )));
    }
    let (key, data) = (parts.get_item(0)?, parts.get_item(1)?);
    let (arrival_ms, sequence) = (parts.get_item(2)?, parts.get_item(3)?);
    let key = key
        .cast::<PyString>()
        .map_err(|_| wrong("the partition key must be a str", &key))?;
    let data = data
        .cast::<PyBytes>()
        .map_err(|_| wrong("the payload must be bytes", &data))?;
    let sequence = if sequence.is_none() {
        None
    } else {
        let text = sequence.cast::<PyString>();
        Some(text.map_err(|_| wrong("the sequence number must be a str or None", &sequence))?)
    };
    let py = record.py();
    let key = utf8(key, index, "the partition key")?;
    let sequence = sequence.map(|text| utf8(text, index, "the sequence number"));
    let arrival_ms = arrival_ms.extract().map_err(|error: PyErr| {
        if error.is_instance_of::<PyOverflowError>(py) {
            page(
                format!("at {index}: ApproximateArrivalTimestamp is out of range"),
                index,
            )
        } else {
            wrong(
                "the arrival time must be an int of milliseconds",
                &arrival_ms,
            )
        }
    })?;
    builder
        .push(key, data.as_bytes(), arrival_ms, sequence.transpose()?)
        .map_err(|error| page_error(&error))
}

fn utf8<'a>(text: &'a Bound<'_, PyString>, index: usize, what: &str) -> PyResult<&'a str> {
    text.to_str().map_err(|error| {
        if error.is_instance_of::<PyUnicodeError>(text.py()) {
            let message =
                format!("at {index}: {what} holds half of a surrogate pair, which is no character");
            page(message, index)
        } else {
            error
        }
    })
}

#[pyclass(frozen, module = "streamcore._streamcore")]
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) page: Arc<streamcore::Page>,
}

#[pymethods]
impl Page {
    #[staticmethod]
    #[pyo3(signature = (body, format = "kinesis"))]
    fn parse(py: Python<'_>, body: &Bound<'_, PyBytes>, format: &str) -> PyResult<Self> {
        let format = format_named(format)?;
        // The page keeps Python's bytes, which never change.
        let body = Bytes::from_owner(PyBackedBytes::from(body.clone()));
        let page = if body.len() < DETACH_BYTES {
            streamcore::Page::parse_with(body, format, fetch_ahead)
        } else {
            py.detach(|| streamcore::Page::parse_with(body, format, fetch_ahead))
        };
        Ok(Self {
            page: Arc::new(page.map_err(|error| page_error(&error))?),
        })
    }

    #[staticmethod]
    fn from_records(records: &Bound<'_, PyAny>) -> PyResult<Self> {
        let mut builder = PageBuilder::new();
        for (index, record) in records.try_iter()?.enumerate() {
            push(&mut builder, index, &record?)?;
        }
        Ok(Self {
            page: Arc::new(builder.finish()),
        })
    }

    fn arrived_since(&self, instant_ms: i64) -> Self {
        Self {
            page: self
                .page
                .arrived_since(instant_ms)
                .map_or_else(|| Arc::clone(&self.page), Arc::new),
        }
    }

    fn up_to(&self, sequence_number: &str) -> PyResult<Self> {
        let last = SequenceNumber::parse(sequence_number).map_err(|reason| {
            let text = format!("sequence_number is {sequence_number:?}: {reason}");
            config("sequence_number", text)
        })?;
        Ok(Self {
            page: Arc::new(self.page.up_to(&last)),
        })
    }

    fn deaggregate(
        &self,
        py: Python<'_>,
        first_hash_key: u128,
        last_hash_key: u128,
    ) -> (Self, u32) {
        let found = py.detach(|| self.page.deaggregate(&(first_hash_key..=last_hash_key)));
        match found {
            None => (self.shared(), 0),
            Some(apart) => (
                Self {
                    page: Arc::new(apart.page),
                },
                apart.foreign,
            ),
        }
    }

    fn cut(&self, limit: usize) -> (Self, Option<Self>) {
        match self.page.cut(limit) {
            None => (self.shared(), None),
            Some((first, rest)) => (
                Self {
                    page: Arc::new(first),
                },
                Some(Self {
                    page: Arc::new(rest),
                }),
            ),
        }
    }

    fn __len__(&self) -> usize {
        self.page.len()
    }

    fn __repr__(&self) -> String {
        format!(
            "Page({} records, {} bytes)",
            self.page.len(),
            self.page.held_bytes()
        )
    }

    #[getter]
    fn held_bytes(&self) -> usize {
        self.page.held_bytes()
    }

    #[getter]
    fn next_iterator(&self) -> Option<&str> {
        self.page.trailer().next_iterator.as_deref()
    }

    #[getter]
    fn millis_behind(&self) -> Option<i64> {
        self.page.trailer().millis_behind
    }

    #[getter]
    fn continuation_sequence_number(&self) -> Option<&str> {
        self.page.trailer().continuation.as_deref()
    }

    #[getter]
    fn child_shards(&self) -> Vec<ChildShard> {
        let children = self.page.trailer().child_shards.iter();
        children
            .map(|child| ChildShard {
                shard_id: child.shard_id.clone(),
                parent_shards: child.parent_shards.clone(),
            })
            .collect()
    }

    #[getter]
    fn first_sequence_number(&self) -> Option<&str> {
        let first = (!self.page.is_empty()).then(|| self.page.record(0).sequence());
        first.filter(|sequence| !sequence.is_empty())
    }

    #[getter]
    fn last_sequence_number(&self) -> Option<&str> {
        let last = self.page.len().checked_sub(1)?;
        Some(self.page.record(last).sequence()).filter(|sequence| !sequence.is_empty())
    }
}

impl Page {
    fn shared(&self) -> Self {
        Self {
            page: Arc::clone(&self.page),
        }
    }
}
