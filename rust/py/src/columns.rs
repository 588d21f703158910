//! The records of a batch as columns: numpy arrays, and an Arrow table.

use std::borrow::Cow;
use std::ffi::CStr;

use numpy::{Element, IntoPyArray, PyArray1};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyCapsule, PyTuple};
use streamcore::{Format, PageError, Records};

use crate::arrow::{ArrowArray, ArrowArrayStream, ArrowSchema, Column, Field, Kind};
use crate::batch::Batch;
use crate::errors;
use crate::objects::fetch_ahead;

const KINESIS: &[Field] = &[
    field(c"sequence_number", Kind::Utf8),
    field(c"partition_key", Kind::Utf8),
    field(c"approximate_arrival_timestamp", Kind::Timestamp),
    field(c"data", Kind::Binary),
];

const DYNAMODB: &[Field] = &[
    field(c"event_id", Kind::Utf8),
    field(c"event_name", Kind::Utf8),
    field(c"sequence_number", Kind::Utf8),
    field(c"approximate_creation_date_time", Kind::Timestamp),
    field(c"dynamodb", Kind::Utf8),
];

const fn field(name: &'static CStr, kind: Kind) -> Field {
    Field { name, kind }
}

/// Made column by column, each when it is first asked for.
#[pyclass(frozen, module = "streamcore._streamcore")]
pub(crate) struct Columns {
    batch: Py<Batch>,
    ordinal: PyOnceLock<Py<PyArray1<u64>>>,
    arrival_time_ms: PyOnceLock<Py<PyArray1<i64>>>,
    size: PyOnceLock<Py<PyArray1<u32>>>,
    key_hash: PyOnceLock<Py<PyArray1<u64>>>,
    sequence_number: PyOnceLock<Strings>,
    partition_key: PyOnceLock<Strings>,
    payload: PyOnceLock<Strings>,
}

/// Texts or bytes one after the other, and where each begins.
type Strings = (Py<PyArray1<u8>>, Py<PyArray1<u64>>);

#[pymethods]
impl Columns {
    #[getter]
    fn ordinal(&self, py: Python<'_>) -> Py<PyArray1<u64>> {
        self.numbers(py, &self.ordinal, |batch| {
            let records = batch.records();
            records.numbered().map(|(ordinal, ..)| ordinal).collect()
        })
    }

    #[getter]
    fn arrival_time_ms(&self, py: Python<'_>) -> Py<PyArray1<i64>> {
        self.numbers(py, &self.arrival_time_ms, |batch| {
            arrivals(&batch.records())
        })
    }

    #[getter]
    fn size(&self, py: Python<'_>) -> Py<PyArray1<u32>> {
        self.numbers(py, &self.size, |batch| {
            let constant = batch.template().record_bytes();
            let records = batch.records();
            let sizes = records.iter().map(|record| constant + record.event_bytes());
            sizes.collect()
        })
    }

    #[getter]
    fn key_hash(&self, py: Python<'_>) -> Py<PyArray1<u64>> {
        self.numbers(py, &self.key_hash, |batch| {
            let records = batch.records();
            records.iter().map(|record| record.key_hash()).collect()
        })
    }

    #[getter]
    fn sequence_number(&self, py: Python<'_>) -> PyResult<Py<PyArray1<u8>>> {
        let (texts, _) = self.strings(py, &self.sequence_number, sequences)?;
        Ok(texts.clone_ref(py))
    }

    #[getter]
    fn sequence_number_offsets(&self, py: Python<'_>) -> PyResult<Py<PyArray1<u64>>> {
        let (_, offsets) = self.strings(py, &self.sequence_number, sequences)?;
        Ok(offsets.clone_ref(py))
    }

    #[getter]
    fn partition_key(&self, py: Python<'_>) -> PyResult<Py<PyArray1<u8>>> {
        let (texts, _) = self.strings(py, &self.partition_key, keys)?;
        Ok(texts.clone_ref(py))
    }

    #[getter]
    fn partition_key_offsets(&self, py: Python<'_>) -> PyResult<Py<PyArray1<u64>>> {
        let (_, offsets) = self.strings(py, &self.partition_key, keys)?;
        Ok(offsets.clone_ref(py))
    }

    #[getter]
    fn payload(&self, py: Python<'_>) -> PyResult<Py<PyArray1<u8>>> {
        let (payload, _) = self.strings(py, &self.payload, payloads)?;
        Ok(payload.clone_ref(py))
    }

    #[getter]
    fn payload_offsets(&self, py: Python<'_>) -> PyResult<Py<PyArray1<u64>>> {
        let (_, offsets) = self.strings(py, &self.payload, payloads)?;
        Ok(offsets.clone_ref(py))
    }
}

impl Columns {
    pub(crate) fn new(batch: Py<Batch>) -> Self {
        Self {
            batch,
            ordinal: PyOnceLock::new(),
            arrival_time_ms: PyOnceLock::new(),
            size: PyOnceLock::new(),
            key_hash: PyOnceLock::new(),
            sequence_number: PyOnceLock::new(),
            partition_key: PyOnceLock::new(),
            payload: PyOnceLock::new(),
        }
    }

    fn numbers<T: Element>(
        &self,
        py: Python<'_>,
        column: &PyOnceLock<Py<PyArray1<T>>>,
        gather: impl FnOnce(&streamcore::Batch) -> Vec<T>,
    ) -> Py<PyArray1<T>> {
        let array = column.get_or_init(py, || {
            let numbers = gather(&self.batch.get().batch);
            numbers.into_pyarray(py).unbind()
        });
        array.clone_ref(py)
    }

    fn strings<'a>(
        &self,
        py: Python<'_>,
        column: &'a PyOnceLock<Strings>,
        gather: fn(&Records) -> Gathered<u64>,
    ) -> PyResult<&'a Strings> {
        column.get_or_try_init(py, || {
            let records = self.batch.get().batch.records();
            let (bytes, offsets) = py.detach(|| gather(&records)).map_err(page)?;
            Ok((
                bytes.into_pyarray(py).unbind(),
                offsets.into_pyarray(py).unbind(),
            ))
        })
    }
}

/// Bytes one after the other and where each begins, or the index of the record that has none and why.
type Gathered<O> = Result<(Vec<u8>, Vec<O>), (usize, PageError)>;

fn page((index, error): (usize, PageError)) -> PyErr {
    errors::page(format!("record {index}: {error}"), index)
}

/// One string of each record.
fn gather<'a, O: TryFrom<usize>>(
    records: &'a Records,
    bytes: usize,
    mut push: impl FnMut(&streamcore::Record<'a>, &mut Vec<u8>) -> Result<(), PageError>,
) -> Gathered<O> {
    // A batch is below the payload limit of 6 MB, so that any offset holds it.
    let offset = |bytes: &Vec<u8>| match O::try_from(bytes.len()) {
        Ok(offset) => offset,
        Err(_) => unreachable!("a batch of {} bytes", bytes.len()),
    };
    let mut out = Vec::with_capacity(bytes);
    let mut offsets = Vec::with_capacity(records.len() + 1);
    offsets.push(offset(&out));
    for (index, record) in records.iter().enumerate() {
        push(&record, &mut out).map_err(|error| (index, error))?;
        offsets.push(offset(&out));
    }
    Ok((out, offsets))
}

fn texts<O: TryFrom<usize>>(
    records: &Records,
    push: impl Fn(&streamcore::Record<'_>, &mut Vec<u8>),
) -> Gathered<O> {
    gather(records, 32 * records.len(), |record, out| {
        push(record, out);
        Ok(())
    })
}

fn sequences<O: TryFrom<usize>>(records: &Records) -> Gathered<O> {
    texts(records, |record, out| {
        out.extend_from_slice(record.as_bytes().sequence);
    })
}

fn keys<O: TryFrom<usize>>(records: &Records) -> Gathered<O> {
    texts(records, |record, out| {
        out.extend_from_slice(record.key().as_bytes());
    })
}

fn payloads<O: TryFrom<usize>>(records: &Records) -> Gathered<O> {
    // Base64 is 4 characters for 3 bytes.
    let bytes = records.iter().map(|record| match record.dynamodb_json() {
        Some(object) => object.len(),
        None => record.as_bytes().data_base64.len() / 4 * 3,
    });
    let mut later = records.iter().skip(1);
    gather(records, bytes.sum(), |record, out| {
        if let Some(later) = later.next() {
            fetch_ahead(later.as_bytes().data_base64);
        }
        record.payload_into(out)
    })
}

fn arrivals(records: &Records) -> Vec<i64> {
    records.iter().map(|record| record.arrival_ms()).collect()
}

/// The id and the name of a change.
fn event<'a>(record: &streamcore::Record<'a>) -> (Cow<'a, str>, Cow<'a, str>) {
    record.dynamodb_event().unwrap_or_default()
}

fn fields(batch: &streamcore::Batch) -> &'static [Field] {
    match batch.config().format {
        Format::Kinesis => KINESIS,
        Format::DynamoDb => DYNAMODB,
    }
}

fn table(batch: &streamcore::Batch) -> Result<ArrowArray, (usize, PageError)> {
    let strings = |gathered: Gathered<i32>| {
        gathered.map(|(bytes, offsets)| Column::Strings { offsets, bytes })
    };
    // Taken once, so that all columns are of the same pages.
    let records = &batch.records();
    let arrivals = Column::Timestamps(arrivals(records));
    let columns = match batch.config().format {
        Format::Kinesis => vec![
            strings(sequences(records))?,
            strings(keys(records))?,
            arrivals,
            strings(payloads(records))?,
        ],
        Format::DynamoDb => {
            vec![
                strings(texts(records, |record, out| {
                    out.extend_from_slice(event(record).0.as_bytes());
                }))?,
                strings(texts(records, |record, out| {
                    out.extend_from_slice(event(record).1.as_bytes());
                }))?,
                strings(sequences(records))?,
                arrivals,
                strings(payloads(records))?,
            ]
        }
    };
    Ok(ArrowArray::of(records.len(), columns))
}

/// The names and types of a batch's table.
pub(crate) fn arrow_schema<'py>(
    py: Python<'py>,
    batch: &streamcore::Batch,
) -> PyResult<Bound<'py, PyCapsule>> {
    PyCapsule::new_with_value(py, ArrowSchema::of(fields(batch)), c"arrow_schema")
}

/// The table as one record batch, with its schema.
pub(crate) fn arrow_array<'py>(
    py: Python<'py>,
    batch: &streamcore::Batch,
) -> PyResult<Bound<'py, PyTuple>> {
    let array = py.detach(|| table(batch)).map_err(page)?;
    let array = PyCapsule::new_with_value(py, array, c"arrow_array")?;
    PyTuple::new(py, [arrow_schema(py, batch)?, array])
}

/// The table as a stream of one record batch.
pub(crate) fn arrow_stream<'py>(
    py: Python<'py>,
    batch: &streamcore::Batch,
) -> PyResult<Bound<'py, PyCapsule>> {
    let array = py.detach(|| table(batch)).map_err(page)?;
    let stream = ArrowArrayStream::of(fields(batch), array);
    PyCapsule::new_with_value(py, stream, c"arrow_array_stream")
}
