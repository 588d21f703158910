//! The Lambda event of a batch as Python objects.

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyFloat, PyInt, PyList, PyString};
use streamcore::{Format, InFlight, MappingIdentity, Record, RecordBytes};

use crate::errors::usage;
use crate::json;
use crate::objects::{Ascii, CollectorPause, fetch_ahead, join, list, text};

/// Events of at least so many records are built with the garbage collector paused: the two dicts of each record would call it, at its
/// default of 700 new objects, again and again, only to find that all that is there is in use.
const COLLECTED_RECORDS: usize = 256;

/// The records of so many at the most are made under the engine's lock: what a batch costs beside its records is little in larger ones.
const FEW_RECORDS: usize = 10;

/// Data of a page of many megabytes are far from the processor when an event is made of them. A record's are fetched so many records before
/// they are copied.
const FETCHED_AHEAD: usize = 2;

/// What the events of a shard are made of.
pub(crate) struct EventShape {
    shard_id: String,
    /// What an `eventID` begins with.
    id_prefix: String,
    identity: MappingIdentity,
    dicts: PyOnceLock<Dicts>,
}

/// A record of the event as it is for every record of a shard, to be copied and filled in under these keys.
///
/// A copy of a dict keeps its keys and their order, so each record costs two copies and six assignments.
struct Dicts {
    record: Py<PyDict>,
    kinesis: Py<PyDict>,
    inner: Py<PyString>,
    event_id: Py<PyString>,
    partition_key: Py<PyString>,
    sequence_number: Py<PyString>,
    data: Py<PyString>,
    arrival: Py<PyString>,
}

impl Dicts {
    fn new(py: Python<'_>, identity: &MappingIdentity) -> PyResult<Self> {
        let made = Self {
            record: PyDict::new(py).unbind(),
            kinesis: PyDict::new(py).unbind(),
            inner: intern!(py, "kinesis").clone().unbind(),
            event_id: intern!(py, "eventID").clone().unbind(),
            partition_key: intern!(py, "partitionKey").clone().unbind(),
            sequence_number: intern!(py, "sequenceNumber").clone().unbind(),
            data: intern!(py, "data").clone().unbind(),
            arrival: intern!(py, "approximateArrivalTimestamp").clone().unbind(),
        };
        let kinesis = made.kinesis.bind(py);
        kinesis.set_item(intern!(py, "kinesisSchemaVersion"), intern!(py, "1.0"))?;
        let keys = [
            &made.partition_key,
            &made.sequence_number,
            &made.data,
            &made.arrival,
        ];
        for key in keys {
            kinesis.set_item(key, py.None())?;
        }
        let record = made.record.bind(py);
        record.set_item(&made.inner, py.None())?;
        record.set_item(intern!(py, "eventSource"), intern!(py, "aws:kinesis"))?;
        record.set_item(intern!(py, "eventVersion"), intern!(py, "1.0"))?;
        record.set_item(&made.event_id, py.None())?;
        record.set_item(intern!(py, "eventName"), intern!(py, "aws:kinesis:record"))?;
        let arn = &identity.execution_role_arn;
        record.set_item(intern!(py, "invokeIdentityArn"), arn)?;
        record.set_item(intern!(py, "awsRegion"), &identity.aws_region)?;
        record.set_item(intern!(py, "eventSourceARN"), &identity.event_source_arn)?;
        Ok(made)
    }
}

impl EventShape {
    pub(crate) fn new(shard_id: String, identity: MappingIdentity) -> Self {
        Self {
            id_prefix: [&*shard_id, ":"].concat(),
            shard_id,
            identity,
            dicts: PyOnceLock::new(),
        }
    }

    /// The event of a batch of the shard.
    pub(crate) fn event<'py>(
        &self,
        py: Python<'py>,
        batch: &streamcore::Batch,
    ) -> PyResult<Bound<'py, PyDict>> {
        match batch.config().format {
            Format::Kinesis => self.kinesis(py, batch),
            Format::DynamoDb => {
                let event = batch.json();
                let text = str::from_utf8(&event).expect("an event is UTF-8");
                Ok(json::loads(py, text)?.cast_into()?)
            }
        }
    }

    fn kinesis<'py>(
        &self,
        py: Python<'py>,
        batch: &streamcore::Batch,
    ) -> PyResult<Bound<'py, PyDict>> {
        let dicts = self
            .dicts
            .get_or_try_init(py, || Dicts::new(py, &self.identity))?;
        let records = batch.records();
        let later = records.iter().skip(FETCHED_AHEAD);
        let records = {
            let _pause = (records.len() >= COLLECTED_RECORDS).then(|| CollectorPause::begin(py));
            self.records(py, dicts, records.len(), records.iter(), later)?
        };
        let event = of_records(py, records)?;
        if let Some(window) = batch.window() {
            self.set_window(&event, window)?;
        }
        Ok(event)
    }

    /// The records of the event of a batch, to be made under the engine's lock. None where that is not to be done.
    ///
    /// No Python code runs: all that is made is dicts, texts and numbers, the collector is paused, and what they are made of is there. The
    /// first event of a shard is made without the lock.
    pub(crate) fn few_records<'py>(
        &self,
        py: Python<'py>,
        batch: &InFlight<'_>,
    ) -> Option<PyResult<Bound<'py, PyList>>> {
        let dicts = self.dicts.get(py)?;
        let few = batch.len() <= FEW_RECORDS && !batch.has_window();
        if !few || batch.config().format != Format::Kinesis {
            return None;
        }
        let _pause = CollectorPause::begin(py);
        let nothing = std::iter::empty();
        Some(self.records(py, dicts, batch.len(), batch.records(), nothing))
    }

    /// The records of an event; the data of `later` are fetched meanwhile.
    fn records<'py, 'a>(
        &self,
        py: Python<'py>,
        dicts: &Dicts,
        length: usize,
        records: impl Iterator<Item = Record<'a>>,
        mut later: impl Iterator<Item = Record<'a>>,
    ) -> PyResult<Bound<'py, PyList>> {
        let (record_shape, kinesis_shape) = (dicts.record.bind(py), dicts.kinesis.bind(py));
        let prefix = Ascii::of(self.id_prefix.as_bytes());
        list(py, length, records, |record| {
            if let Some(later) = later.next() {
                fetch_ahead(later.as_bytes().data_base64);
            }
            let RecordBytes {
                key_json,
                sequence: number,
                data_base64,
            } = record.as_bytes();
            let key = if key_json.contains(&b'\\') {
                PyString::new(py, &record.key())
            } else {
                text(py, key_json)
            };
            let kinesis = kinesis_shape.copy()?;
            kinesis.set_item(&dicts.partition_key, key)?;
            let (sequence, id) = if let (Some(prefix), Some(number)) = (prefix, Ascii::of(number)) {
                (join(py, [number]), join(py, [prefix, number]))
            } else {
                let id = [self.id_prefix.as_bytes(), number].concat();
                (text(py, number), text(py, &id))
            };
            kinesis.set_item(&dicts.sequence_number, sequence)?;
            kinesis.set_item(&dicts.data, text(py, data_base64))?;
            kinesis.set_item(&dicts.arrival, seconds(py, &record))?;
            let whole = record_shape.copy()?;
            whole.set_item(&dicts.inner, kinesis)?;
            whole.set_item(&dicts.event_id, id)?;
            Ok(whole)
        })
    }

    /// What an event of a tumbling window has beside its records.
    fn set_window(&self, event: &Bound<'_, PyDict>, window: &streamcore::Window) -> PyResult<()> {
        let py = event.py();
        let bounds = PyDict::new(py);
        bounds.set_item(intern!(py, "start"), window.start_text())?;
        bounds.set_item(intern!(py, "end"), window.end_text())?;
        let state =
            str::from_utf8(window.state()).map_err(|_| usage("the window state is not JSON"))?;
        event.set_item(intern!(py, "shardId"), &self.shard_id)?;
        event.set_item(
            intern!(py, "eventSourceARN"),
            &self.identity.event_source_arn,
        )?;
        event.set_item(intern!(py, "window"), bounds)?;
        event.set_item(intern!(py, "state"), json::loads(py, state)?)?;
        event.set_item(intern!(py, "isFinalInvokeForWindow"), window.is_final())?;
        event.set_item(
            intern!(py, "isWindowTerminatedEarly"),
            window.is_terminated_early(),
        )
    }
}

/// The event of these records.
pub(crate) fn of_records<'py>(
    py: Python<'py>,
    records: Bound<'py, PyList>,
) -> PyResult<Bound<'py, PyDict>> {
    let event = PyDict::new(py);
    event.set_item(intern!(py, "Records"), records)?;
    Ok(event)
}

/// The arrival time as `json.loads` would give it: an int for whole seconds, else a float.
fn seconds<'py>(py: Python<'py>, record: &Record<'_>) -> Bound<'py, PyAny> {
    let ms = record.arrival_ms();
    if ms % 1000 == 0 {
        PyInt::new(py, ms / 1000).into_any()
    } else {
        // Both are exact: instants of the page form are below 2^53 ms, and the quotient is rounded once.
        #[expect(clippy::cast_precision_loss, reason = "instants are below 2^53")]
        PyFloat::new(py, ms as f64 / 1000.0).into_any()
    }
}
