//! Pages: parsed outside the engine's lock, shared with it and not copied.

use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;
use pyo3::types::PyBytes;
use streamcore::{Format, PageBuilder};

use crate::errors::{config, page_error};

/// Bodies of at least so many bytes are read with the interpreter released.
const DETACH_BYTES: usize = 64 << 10;

/// The format of a name that Python uses.
pub(crate) fn format_named(name: &str) -> PyResult<Format> {
    match name {
        "kinesis" => Ok(Format::Kinesis),
        "dynamodb" => Ok(Format::DynamoDb),
        other => Err(config(format!(
            "format is {other:?}, and must be 'kinesis' or 'dynamodb'"
        ))),
    }
}

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
        let bytes = body.as_bytes().to_vec();
        let page = if bytes.len() < DETACH_BYTES {
            streamcore::Page::parse(bytes, format)
        } else {
            py.detach(|| streamcore::Page::parse(bytes, format))
        };
        Ok(Self {
            page: Arc::new(page.map_err(|error| page_error(&error))?),
        })
    }

    #[staticmethod]
    fn from_records(records: &Bound<'_, PyAny>) -> PyResult<Self> {
        type Parts<'py> = (PyBackedStr, Bound<'py, PyBytes>, i64, Option<PyBackedStr>);
        let mut builder = PageBuilder::new();
        for record in records.try_iter()? {
            let (key, data, arrival_ms, sequence): Parts<'_> = record?.extract()?;
            builder
                .push(&key, data.as_bytes(), arrival_ms, sequence.as_deref())
                .map_err(|error| page_error(&error))?;
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
    fn last_sequence_number(&self) -> Option<&str> {
        let last = self.page.len().checked_sub(1)?;
        Some(self.page.record(last).sequence()).filter(|sequence| !sequence.is_empty())
    }
}
