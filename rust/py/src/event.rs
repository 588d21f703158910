//! The Lambda event of a batch as Python objects.

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyFloat, PyInt, PyString};
use streamcore::{Format, MappingIdentity, Record, RecordBytes};

use crate::errors::usage;
use crate::json;
use crate::objects::{Ascii, fetch_ahead, join, list, text};

/// Events of at least so many records are built with the garbage collector paused: the two dicts of each record would call it, at its
/// default of 700 new objects, again and again, only to find that all that is there is in use.
const COLLECTED_RECORDS: usize = 256;

/// Data of a page of many megabytes are far from the processor when an event is made of them. A record's are fetched so many records before
/// they are copied.
const FETCHED_AHEAD: usize = 2;

/// The garbage collector is off until this is dropped, if it was on. The interpreter is held all the while and runs no code but ours, so
/// that nobody else can turn it on or off meanwhile.
struct CollectorPause<'py>(Option<Bound<'py, PyModule>>);

impl<'py> CollectorPause<'py> {
    fn begin(py: Python<'py>) -> PyResult<Self> {
        let gc = py.import(intern!(py, "gc"))?;
        let is_on = gc.call_method0(intern!(py, "isenabled"))?.is_truthy()?;
        if is_on {
            gc.call_method0(intern!(py, "disable"))?;
        }
        Ok(Self(is_on.then_some(gc)))
    }
}

impl Drop for CollectorPause<'_> {
    fn drop(&mut self) {
        if let Some(gc) = &self.0
            && let Err(error) = gc.call_method0(intern!(gc.py(), "enable"))
        {
            error.write_unraisable(gc.py(), Some(gc));
        }
    }
}

/// A record of the event as it is for every record of a shard, to be copied and filled in.
///
/// A copy of a dict keeps its keys and their order, so each record costs two copies and five assignments.
pub(crate) struct EventShape {
    shard_id: String,
    /// What an `eventID` begins with.
    id_prefix: String,
    identity: MappingIdentity,
    dicts: PyOnceLock<(Py<PyDict>, Py<PyDict>)>,
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

    fn dicts<'py>(&self, py: Python<'py>) -> PyResult<(&Bound<'py, PyDict>, &Bound<'py, PyDict>)> {
        let (record, kinesis) = self.dicts.get_or_try_init(py, || {
            let kinesis = PyDict::new(py);
            kinesis.set_item(intern!(py, "kinesisSchemaVersion"), intern!(py, "1.0"))?;
            for key in [
                intern!(py, "partitionKey"),
                intern!(py, "sequenceNumber"),
                intern!(py, "data"),
                intern!(py, "approximateArrivalTimestamp"),
            ] {
                kinesis.set_item(key, py.None())?;
            }
            let record = PyDict::new(py);
            record.set_item(intern!(py, "kinesis"), py.None())?;
            record.set_item(intern!(py, "eventSource"), intern!(py, "aws:kinesis"))?;
            record.set_item(intern!(py, "eventVersion"), intern!(py, "1.0"))?;
            record.set_item(intern!(py, "eventID"), py.None())?;
            record.set_item(intern!(py, "eventName"), intern!(py, "aws:kinesis:record"))?;
            record.set_item(
                intern!(py, "invokeIdentityArn"),
                &self.identity.execution_role_arn,
            )?;
            record.set_item(intern!(py, "awsRegion"), &self.identity.aws_region)?;
            record.set_item(
                intern!(py, "eventSourceARN"),
                &self.identity.event_source_arn,
            )?;
            Ok::<_, PyErr>((record.unbind(), kinesis.unbind()))
        })?;
        Ok((record.bind(py), kinesis.bind(py)))
    }

    /// The event of a batch of the shard.
    pub(crate) fn event<'py>(
        &self,
        py: Python<'py>,
        batch: &streamcore::Batch,
    ) -> PyResult<Bound<'py, PyDict>> {
        let _pause = (batch.len() >= COLLECTED_RECORDS)
            .then(|| CollectorPause::begin(py))
            .transpose()?;
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
        let (record_shape, kinesis_shape) = self.dicts(py)?;
        let prefix = Ascii::of(self.id_prefix.as_bytes());
        let records = batch.records();
        let mut later = (records.len() > FETCHED_AHEAD).then(|| records.iter().skip(FETCHED_AHEAD));
        let records = list(py, records.len(), records.iter(), |record| {
            if let Some(later) = later.as_mut().and_then(Iterator::next) {
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
            kinesis.set_item(intern!(py, "partitionKey"), key)?;
            let (sequence, id) = if let (Some(prefix), Some(number)) = (prefix, Ascii::of(number)) {
                (join(py, [number]), join(py, [prefix, number]))
            } else {
                let id = [self.id_prefix.as_bytes(), number].concat();
                (text(py, number), text(py, &id))
            };
            kinesis.set_item(intern!(py, "sequenceNumber"), sequence)?;
            kinesis.set_item(intern!(py, "data"), text(py, data_base64))?;
            kinesis.set_item(
                intern!(py, "approximateArrivalTimestamp"),
                seconds(py, &record),
            )?;
            let whole = record_shape.copy()?;
            whole.set_item(intern!(py, "kinesis"), kinesis)?;
            whole.set_item(intern!(py, "eventID"), id)?;
            Ok(whole)
        })?;
        let event = PyDict::new(py);
        event.set_item(intern!(py, "Records"), records)?;
        if let Some(window) = batch.window() {
            self.set_window(&event, window)?;
        }
        Ok(event)
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
