//! Event filters: compiled patterns, and their match for events that do not come from a page.

use std::sync::Arc;

use pyo3::exceptions::{PyTypeError, PyUnicodeDecodeError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyString};

use crate::errors::{filter_error, page_error};

#[pyclass(frozen, eq, module = "streamcore._streamcore")]
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct FilterCriteria {
    pub(crate) filter: Arc<streamcore::FilterCriteria>,
}

#[pymethods]
impl FilterCriteria {
    #[new]
    #[expect(
        clippy::needless_pass_by_value,
        reason = "made of the argument for this call"
    )]
    fn new(patterns: Vec<String>) -> PyResult<Self> {
        let filter =
            streamcore::FilterCriteria::new(&patterns).map_err(|error| filter_error(&error))?;
        Ok(Self {
            filter: Arc::new(filter),
        })
    }

    #[getter]
    fn patterns(&self) -> Vec<String> {
        self.filter.patterns().to_vec()
    }

    fn wants_value_of(&self, name: &str) -> bool {
        self.filter.wants_value_of(name)
    }

    fn matches(&self, event: &Bound<'_, PyAny>) -> PyResult<bool> {
        let py = event.py();
        let dumped;
        let text = if let Ok(text) = event.cast::<PyString>() {
            text.to_str()?
        } else if let Ok(bytes) = event.cast::<PyBytes>() {
            let bytes = bytes.as_bytes();
            str::from_utf8(bytes).map_err(|error| {
                match PyUnicodeDecodeError::new_utf8(py, bytes, error) {
                    Ok(error) => PyErr::from_value(error.into_any()),
                    Err(error) => error,
                }
            })?
        } else {
            dumped = dumps(event)?;
            dumped.to_str()?
        };
        self.filter
            .matches(text)
            .map_err(|error| page_error(&error))
    }

    fn __repr__(&self) -> String {
        format!("FilterCriteria({:?})", self.filter.patterns())
    }
}

/// The event as JSON.
fn dumps<'py>(event: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyString>> {
    static DUMPS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let dumps = DUMPS.import(event.py(), "json", "dumps")?;
    dumps
        .call1((event,))?
        .cast_into::<PyString>()
        .map_err(|_| PyTypeError::new_err("json.dumps must return a str"))
}
