//! What callers hand over, checked before the engine is touched. An error names the argument, its value and what would be right.

use std::sync::Arc;

use pyo3::conversion::FromPyObjectOwned;
use pyo3::exceptions::{PyOverflowError, PyTypeError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyType;
use streamcore::{ARRIVAL_MS_MAX, MappingConfig, MappingIdentity, Start, UsageError};

use crate::errors::{config, usage, usage_error};
use crate::filter::FilterCriteria;

/// An integer of the argument's type, or what is allowed.
fn whole<'py, T>(value: &Bound<'py, PyAny>, name: &str, range: &str) -> PyResult<T>
where
    T: FromPyObjectOwned<'py, Error = PyErr>,
{
    value.extract().map_err(|error: PyErr| {
        if error.is_instance_of::<PyOverflowError>(value.py()) {
            config(name, format!("{name} is {value}, and must be {range}"))
        } else {
            error
        }
    })
}

/// Milliseconds, few enough that sums of them are no concern of the engine.
fn milliseconds(value: &Bound<'_, PyAny>, name: &str, min: i64) -> PyResult<i64> {
    match value.extract() {
        Ok(number) if (min..=ARRIVAL_MS_MAX).contains(&number) => Ok(number),
        wrong => Err(not_milliseconds(value, name, min, wrong)),
    }
}

/// Apart from `milliseconds`, since the range is a text that nobody needs where all is well.
#[cold]
fn not_milliseconds(value: &Bound<'_, PyAny>, name: &str, min: i64, wrong: PyResult<i64>) -> PyErr {
    match wrong {
        Err(error) if !error.is_instance_of::<PyOverflowError>(value.py()) => error,
        _ => config(
            name,
            format!("{name} is {value}, and must be milliseconds, {min} to {ARRIVAL_MS_MAX}"),
        ),
    }
}

fn optional<'py, T>(
    value: &Bound<'py, PyAny>,
    read: impl FnOnce(&Bound<'py, PyAny>) -> PyResult<T>,
) -> PyResult<Option<T>> {
    if value.is_none() {
        Ok(None)
    } else {
        read(value).map(Some)
    }
}

pub(crate) fn now(value: &Bound<'_, PyAny>) -> PyResult<i64> {
    milliseconds(value, "now", -ARRIVAL_MS_MAX)
}

pub(crate) fn timestamp_ms(value: &Bound<'_, PyAny>) -> PyResult<Option<i64>> {
    optional(value, |value| {
        milliseconds(value, "timestamp_ms", -ARRIVAL_MS_MAX)
    })
}

pub(crate) fn start_timestamp_ms(value: &Bound<'_, PyAny>) -> PyResult<Option<i64>> {
    optional(value, |value| {
        milliseconds(value, "start_timestamp_ms", -ARRIVAL_MS_MAX)
    })
}

pub(crate) fn millis_behind(value: &Bound<'_, PyAny>) -> PyResult<Option<i64>> {
    optional(value, |value| milliseconds(value, "millis_behind", 0))
}

pub(crate) fn retention_ms(value: &Bound<'_, PyAny>) -> PyResult<Option<i64>> {
    optional(value, |value| milliseconds(value, "retention_ms", 1))
}

pub(crate) fn window_grace_ms(value: &Bound<'_, PyAny>) -> PyResult<i64> {
    milliseconds(value, "window_grace_ms", 0)
}

pub(crate) fn running_max(value: &Bound<'_, PyAny>) -> PyResult<Option<usize>> {
    optional(value, |value| {
        let range = "1 or more, or None";
        let max: usize = whole(value, "running_max", range)?;
        if max == 0 {
            return Err(config(
                "running_max",
                format!("running_max is 0, and must be {range}"),
            ));
        }
        Ok(max)
    })
}

pub(crate) fn budget_bytes(value: &Bound<'_, PyAny>) -> PyResult<usize> {
    whole(value, "budget_bytes", "0 or more, and fit in memory")
}

pub(crate) fn seed(value: &Bound<'_, PyAny>) -> PyResult<u64> {
    whole(value, "seed", "0 to 18446744073709551615")
}

pub(crate) fn version(value: &Bound<'_, PyAny>) -> PyResult<u64> {
    whole(value, "version", "that of a checkpoint")
}

pub(crate) fn index(value: &Bound<'_, PyAny>) -> PyResult<u32> {
    whole(value, "index", "that of a record in the batch")
}

pub(crate) fn status_code(value: &Bound<'_, PyAny>) -> PyResult<u16> {
    whole(value, "status_code", "0 to 65535")
}

/// The handle of a shard; a number that cannot be one names no shard.
pub(crate) fn shard(value: &Bound<'_, PyAny>) -> PyResult<u32> {
    value.extract().map_err(|error: PyErr| {
        if error.is_instance_of::<PyOverflowError>(value.py()) {
            usage(format!("there is no shard {value}"))
        } else {
            error
        }
    })
}

/// A ticket; a number that cannot be one names no batch.
pub(crate) fn ticket(value: &Bound<'_, PyAny>) -> PyResult<u64> {
    // CPython reads what fits into an `i64` in less time, as the tickets of all but millions of shards do.
    if let Ok(ticket) = value.extract::<i64>()
        && let Ok(ticket) = u64::try_from(ticket)
    {
        return Ok(ticket);
    }
    value.extract().map_err(|error: PyErr| {
        if error.is_instance_of::<PyOverflowError>(value.py()) {
            usage_error(&UsageError::NotInFlight)
        } else {
            error
        }
    })
}

pub(crate) fn discard(value: &Bound<'_, PyAny>) -> PyResult<u64> {
    whole(value, "discard", "the id of a discard")
}

fn require_mapping(value: &Bound<'_, PyAny>) -> PyResult<()> {
    static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    let class = CLASS.import(value.py(), "streamcore.mapping", "EventSourceMapping")?;
    if value.is_instance(class)? {
        return Ok(());
    }
    let found = value.get_type().name()?;
    Err(PyTypeError::new_err(format!(
        "mapping must be an EventSourceMapping, not {found}"
    )))
}

fn text(mapping: &Bound<'_, PyAny>, name: &str) -> PyResult<String> {
    mapping.getattr(name)?.extract()
}

/// Reads the UUID and the names in events off a mapping.
pub(crate) fn mapping_identity(mapping: &Bound<'_, PyAny>) -> PyResult<(String, MappingIdentity)> {
    require_mapping(mapping)?;
    let identity = MappingIdentity {
        event_source_arn: text(mapping, "event_source_arn")?,
        function_arn: text(mapping, "function_arn")?,
        execution_role_arn: text(mapping, "execution_role_arn")?,
        aws_region: text(mapping, "aws_region")?,
    };
    Ok((text(mapping, "uuid")?, identity))
}

/// Reads Lambda's parameters off a mapping.
pub(crate) fn mapping_config(mapping: &Bound<'_, PyAny>) -> PyResult<MappingConfig> {
    require_mapping(mapping)?;
    let number = |name: &str| -> PyResult<i64> { mapping.getattr(name)?.extract() };
    let limit = |name: &str| -> PyResult<Option<i64>> {
        Ok(Some(number(name)?).filter(|value| *value >= 0))
    };
    let types: Vec<String> = mapping.getattr("function_response_types")?.extract()?;
    let filter = mapping.getattr("compiled_filter")?;
    let filter = optional(&filter, |filter| {
        let filter = filter.cast::<FilterCriteria>()?;
        Ok(Arc::clone(&filter.get().filter))
    })?;
    Ok(MappingConfig {
        batch_size: number("batch_size")?.try_into()?,
        batching_window_ms: number("maximum_batching_window_in_seconds")?.saturating_mul(1000),
        parallelization_factor: number("parallelization_factor")?.try_into()?,
        retry_attempts_max: limit("maximum_retry_attempts")?
            .map(u32::try_from)
            .transpose()?,
        record_age_max_ms: limit("maximum_record_age_in_seconds")?
            .map(|seconds| seconds.saturating_mul(1000)),
        bisect_batch_on_function_error: mapping
            .getattr("bisect_batch_on_function_error")?
            .extract()?,
        tumbling_window_ms: number("tumbling_window_in_seconds")?.saturating_mul(1000),
        report_batch_item_failures: types.iter().any(|name| name == "ReportBatchItemFailures"),
        filter,
        ..MappingConfig::default()
    })
}

/// Where to begin; `name` is what the caller calls the instant. LATEST without one is the tip `now`, where there is a now.
pub(crate) fn starting(
    start: &str,
    at: Option<i64>,
    name: &str,
    now: Option<i64>,
) -> PyResult<Start> {
    match (start, at) {
        ("TRIM_HORIZON", None) => Ok(Start::TrimHorizon),
        ("TRIM_HORIZON", Some(_)) => Err(config(
            name,
            format!("{name} goes with LATEST and AT_TIMESTAMP, and start is TRIM_HORIZON"),
        )),
        ("LATEST", at) => at.or(now).map(Start::Latest).ok_or_else(|| {
            config(
                name,
                format!("start is LATEST, and {name}, the instant it stands for, is missing"),
            )
        }),
        ("AT_TIMESTAMP", Some(at)) => Ok(Start::AtTimestamp(at)),
        ("AT_TIMESTAMP", None) => Err(config(
            name,
            format!("start is AT_TIMESTAMP, and {name} is missing"),
        )),
        (other, _) => Err(config(
            "start",
            format!("start is {other:?}, and must be 'TRIM_HORIZON', 'LATEST' or 'AT_TIMESTAMP'"),
        )),
    }
}
