//! How the core's errors become the Python classes of `streamcore.errors`. Each match names every variant: a new one must be placed.

use pyo3::PyErr;
use pyo3::prelude::*;
use pyo3::types::IntoPyDict;
use streamcore::{CheckpointError, ConfigError, FilterError, PageError, UsageError};

mod classes {
    pyo3::import_exception!(streamcore.errors, CheckpointError);
    pyo3::import_exception!(streamcore.errors, ConfigError);
    pyo3::import_exception!(streamcore.errors, EngineBrokenError);
    pyo3::import_exception!(streamcore.errors, ForkError);
    pyo3::import_exception!(streamcore.errors, PageError);
    pyo3::import_exception!(streamcore.errors, UsageError);
}

pub(crate) fn page_error(error: &PageError) -> PyErr {
    page(error.to_string(), error.offset())
}

pub(crate) fn page(message: String, offset: usize) -> PyErr {
    classes::PageError::new_err((message, offset))
}

pub(crate) fn checkpoint_error(error: &CheckpointError) -> PyErr {
    classes::CheckpointError::new_err(error.to_string())
}

pub(crate) fn usage_error(error: &UsageError) -> PyErr {
    match error {
        UsageError::Config(error) => config_error(error),
        UsageError::Checkpoint(error) => checkpoint_error(error),
        UsageError::NoShard { .. }
        | UsageError::ShardExists { .. }
        | UsageError::NotInFlight
        | UsageError::NoSuchRecord { .. }
        | UsageError::NoWindow
        | UsageError::StateTooLarge { .. }
        | UsageError::OtherFormat { .. }
        | UsageError::Closed
        | UsageError::NoSuccessor { .. }
        | UsageError::Busy { .. } => usage(error.to_string()),
    }
}

pub(crate) fn filter_error(error: &FilterError) -> PyErr {
    config("filter_criteria", error.to_string())
}

fn config_error(error: &ConfigError) -> PyErr {
    config(error.parameter, error.to_string())
}

pub(crate) fn usage(message: impl Into<String>) -> PyErr {
    classes::UsageError::new_err(message.into())
}

pub(crate) fn config(parameter: &str, message: impl Into<String>) -> PyErr {
    Python::attach(|py| {
        let facts = [("parameter", parameter)].into_py_dict(py)?;
        let class = py.get_type::<classes::ConfigError>();
        Ok(PyErr::from_value(
            class.call((message.into(),), Some(&facts))?,
        ))
    })
    .unwrap_or_else(|error| error)
}

pub(crate) fn broken() -> PyErr {
    classes::EngineBrokenError::new_err(
        "an earlier call failed inside the engine; make a new one and go on from the last checkpoint",
    )
}

pub(crate) fn forked() -> PyErr {
    classes::ForkError::new_err(
        "the process was forked after this engine was made; make a new one in the child",
    )
}
