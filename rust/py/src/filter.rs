//! Event filters: compiled patterns, and their match for events that do not come from a page.

use std::sync::Arc;

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyString};

use streamcore::{FilterError, PageError};

use crate::errors::{filter_error, page, page_error};

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
    fn new(patterns: Vec<Bound<'_, PyString>>) -> PyResult<Self> {
        let text = |(filter, pattern): (usize, &Bound<'_, PyString>)| {
            let text = pattern.to_str().map_err(|_| {
                filter_error(&FilterError {
                    filter,
                    offset: 0,
                    what: "it holds half of a surrogate pair, which no JSON has".into(),
                })
            })?;
            Ok(text.to_owned())
        };
        let patterns = (1..)
            .zip(&patterns)
            .map(text)
            .collect::<PyResult<Vec<_>>>()?;
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
        let dumped;
        let text = if let Ok(text) = event.cast::<PyString>() {
            text.to_str().map_err(|_| {
                page(
                    "the event holds half of a surrogate pair, which no JSON has".into(),
                    0,
                )
            })?
        } else if let Ok(bytes) = event.cast::<PyBytes>() {
            str::from_utf8(bytes.as_bytes()).map_err(|error| {
                page_error(&PageError::NotUtf8 {
                    offset: error.valid_up_to(),
                })
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
