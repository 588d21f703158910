//! Batches, their events, and what comes back of them.

use std::sync::Arc;

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyCapsule, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple};
use streamcore::{Format, MappingIdentity, Record, Response, ReturnedState};

use crate::arguments;
use crate::columns::{self, Columns};
use crate::errors::usage;
use crate::json;

/// Events of at least so many bytes are written with the interpreter released.
const DETACH_BYTES: usize = 64 << 10;

/// Events of at least so many records are built with the garbage collector paused: the two dicts of each record would call it, at its
/// default of 700 new objects, again and again, only to find that all that is there is in use.
const COLLECTED_RECORDS: usize = 256;

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

/// Room for a sequence number of AWS; one that is longer takes more.
const SEQUENCE_BYTES: usize = 64;

/// A record of the event as it is for every record of a shard, to be copied and filled in.
///
/// A copy of a dict keeps its keys and their order, so each record costs two copies and five assignments.
pub(crate) struct EventShape {
    shard_id: String,
    identity: MappingIdentity,
    dicts: PyOnceLock<(Py<PyDict>, Py<PyDict>)>,
}

impl EventShape {
    pub(crate) fn new(shard_id: String, identity: MappingIdentity) -> Self {
        Self {
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

    fn event<'py>(
        &self,
        py: Python<'py>,
        batch: &streamcore::Batch,
    ) -> PyResult<Bound<'py, PyDict>> {
        let (record_shape, kinesis_shape) = self.dicts(py)?;
        let prefix = self.shard_id.len() + 1;
        let mut event_id = String::with_capacity(prefix + SEQUENCE_BYTES);
        event_id.push_str(&self.shard_id);
        event_id.push(':');
        let records = PyList::empty(py);
        for record in batch.records() {
            let kinesis = kinesis_shape.copy()?;
            kinesis.set_item(intern!(py, "partitionKey"), &*record.key())?;
            kinesis.set_item(intern!(py, "sequenceNumber"), record.sequence())?;
            kinesis.set_item(intern!(py, "data"), record.data_base64())?;
            kinesis.set_item(
                intern!(py, "approximateArrivalTimestamp"),
                seconds(py, &record),
            )?;
            let whole = record_shape.copy()?;
            whole.set_item(intern!(py, "kinesis"), kinesis)?;
            event_id.truncate(prefix);
            event_id.push_str(record.sequence());
            whole.set_item(intern!(py, "eventID"), PyString::new(py, &event_id))?;
            records.append(whole)?;
        }
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

#[pyclass(frozen, module = "streamcore._streamcore")]
pub(crate) struct Window {
    window: streamcore::Window,
    state_bytes_max: usize,
}

#[pymethods]
impl Window {
    #[getter]
    fn start_ms(&self) -> i64 {
        self.window.start_ms()
    }

    #[getter]
    fn end_ms(&self) -> i64 {
        self.window.end_ms()
    }

    #[getter]
    fn state(&self) -> &[u8] {
        self.window.state()
    }

    #[getter]
    fn state_bytes_max(&self) -> usize {
        self.state_bytes_max
    }

    #[getter]
    fn is_final(&self) -> bool {
        self.window.is_final()
    }

    #[getter]
    fn is_terminated_early(&self) -> bool {
        self.window.is_terminated_early()
    }

    fn __repr__(&self) -> String {
        let kind = match (self.is_final(), self.is_terminated_early()) {
            (true, true) => ", final, terminated early",
            (true, false) => ", final",
            (false, _) => "",
        };
        format!(
            "Window({}..{}, {} bytes of state{kind})",
            self.window.start_text(),
            self.window.end_text(),
            self.state().len()
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

#[pyclass(frozen, module = "streamcore._streamcore")]
pub(crate) struct Batch {
    pub(crate) batch: streamcore::Batch,
    pub(crate) shape: Arc<EventShape>,
}

#[pymethods]
impl Batch {
    #[getter]
    fn ticket(&self) -> u64 {
        self.batch.ticket().to_u64()
    }

    #[getter]
    fn shard(&self) -> u32 {
        self.batch.ticket().shard()
    }

    #[getter]
    fn shard_id(&self) -> &str {
        &self.batch.config().key.shard_id
    }

    #[getter]
    fn mapping_uuid(&self) -> &str {
        &self.batch.config().key.mapping_uuid
    }

    #[getter]
    fn request_id(&self) -> &str {
        self.batch.request_id()
    }

    #[getter]
    fn attempt(&self) -> u32 {
        self.batch.attempt()
    }

    #[getter]
    fn record_count(&self) -> usize {
        self.batch.len()
    }

    #[getter]
    fn reports_item_failures(&self) -> bool {
        self.batch.config().mapping.report_batch_item_failures
    }

    #[getter]
    fn first_sequence_number(&self) -> Option<String> {
        let first = self.batch.first();
        first.map(|record| record.sequence().to_owned())
    }

    #[getter]
    fn last_sequence_number(&self) -> Option<String> {
        let last = self.batch.last();
        last.map(|record| record.sequence().to_owned())
    }

    #[getter]
    fn last_arrival_ms(&self) -> Option<i64> {
        self.batch.last().map(|record| record.arrival_ms())
    }

    #[getter]
    fn window(&self) -> Option<Window> {
        self.batch.window().map(|window| Window {
            window: window.clone(),
            state_bytes_max: self.batch.state_bytes_max(),
        })
    }

    fn __len__(&self) -> usize {
        self.batch.len()
    }

    fn __repr__(&self) -> String {
        let what = range(self.batch.len(), self.batch.first(), self.batch.last());
        let (shard_id, attempt) = (self.shard_id(), self.batch.attempt());
        format!("Batch({what} of {shard_id}, attempt {attempt})")
    }

    fn index_of(&self, sequence_number: &str) -> Option<usize> {
        self.batch.index_of(sequence_number)
    }

    fn event<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let _pause = (self.batch.len() >= COLLECTED_RECORDS)
            .then(|| CollectorPause::begin(py))
            .transpose()?;
        match self.batch.config().format {
            Format::Kinesis => self.shape.event(py, &self.batch),
            Format::DynamoDb => {
                let event = self.batch.json();
                let text = str::from_utf8(&event).expect("an event is UTF-8");
                Ok(json::loads(py, text)?.cast_into()?)
            }
        }
    }

    fn json<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        event_bytes(py, self.batch.json_bytes(), || self.batch.json())
    }

    fn columns(slf: Py<Self>) -> Columns {
        Columns::new(slf)
    }

    fn __arrow_c_schema__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyCapsule>> {
        columns::arrow_schema(py, &self.batch)
    }

    // A batch has one schema: whoever wants another one casts.
    #[pyo3(signature = (requested_schema = None))]
    fn __arrow_c_array__<'py>(
        &self,
        py: Python<'py>,
        requested_schema: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyTuple>> {
        let _ = requested_schema;
        columns::arrow_array(py, &self.batch)
    }

    #[pyo3(signature = (requested_schema = None))]
    fn __arrow_c_stream__<'py>(
        &self,
        py: Python<'py>,
        requested_schema: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyCapsule>> {
        let _ = requested_schema;
        columns::arrow_stream(py, &self.batch)
    }
}

/// Which records, for people.
fn range(records: usize, first: Option<Record<'_>>, last: Option<Record<'_>>) -> String {
    match (first, last) {
        (Some(first), Some(last)) => {
            format!(
                "{records} records {}..{}",
                first.sequence(),
                last.sequence()
            )
        }
        _ => "closing call".to_owned(),
    }
}

fn event_bytes(
    py: Python<'_>,
    bytes: usize,
    write: impl FnOnce() -> Vec<u8> + Send,
) -> Bound<'_, PyBytes> {
    let event = if bytes < DETACH_BYTES {
        write()
    } else {
        py.detach(write)
    };
    PyBytes::new(py, &event)
}

#[pyclass(frozen, eq, hash, module = "streamcore._streamcore")]
#[derive(Debug, PartialEq, Clone)]
pub(crate) struct Outcome {
    pub(crate) outcome: streamcore::Outcome,
    pub(crate) returned: Option<ReturnedState>,
}

impl std::hash::Hash for Outcome {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        (self.kind(), self.index()).hash(state);
    }
}

fn response(
    function_error: Option<String>,
    status_code: u16,
    executed_version: Option<String>,
    request_id: Option<String>,
) -> Response {
    Response {
        status_code,
        executed_version,
        function_error,
        request_id,
    }
}

fn returned(state: Option<&[u8]>, ends_window: bool) -> Option<ReturnedState> {
    state.map(|state| ReturnedState {
        state: state.to_vec(),
        ends_window,
    })
}

#[pymethods]
impl Outcome {
    #[staticmethod]
    #[pyo3(signature = (*, window_state = None, ends_window = false))]
    fn success(window_state: Option<&[u8]>, ends_window: bool) -> Self {
        Self {
            outcome: streamcore::Outcome::Success,
            returned: returned(window_state, ends_window),
        }
    }

    #[staticmethod]
    #[pyo3(signature = (*, function_error = None, status_code = 200, executed_version = Response::default().executed_version, request_id = None),
           text_signature = "(*, function_error=None, status_code=200, executed_version='$LATEST', request_id=None)")]
    fn failure(
        function_error: Option<String>,
        #[pyo3(from_py_with = arguments::status_code)] status_code: u16,
        executed_version: Option<String>,
        request_id: Option<String>,
    ) -> Self {
        Self {
            outcome: streamcore::Outcome::Failure(response(
                function_error,
                status_code,
                executed_version,
                request_id,
            )),
            returned: None,
        }
    }

    #[staticmethod]
    #[pyo3(signature = (index, *, status_code = 200, executed_version = Response::default().executed_version, request_id = None,
                        window_state = None, ends_window = false),
           text_signature = "(index, *, status_code=200, executed_version='$LATEST', request_id=None, window_state=None, ends_window=False)")]
    fn partial(
        #[pyo3(from_py_with = arguments::index)] index: u32,
        #[pyo3(from_py_with = arguments::status_code)] status_code: u16,
        executed_version: Option<String>,
        request_id: Option<String>,
        window_state: Option<&[u8]>,
        ends_window: bool,
    ) -> Self {
        let response = response(None, status_code, executed_version, request_id);
        Self {
            outcome: streamcore::Outcome::Partial { index, response },
            returned: returned(window_state, ends_window),
        }
    }

    #[staticmethod]
    fn throttled() -> Self {
        Self {
            outcome: streamcore::Outcome::Throttled,
            returned: None,
        }
    }

    #[staticmethod]
    #[pyo3(signature = (*, request_id = None))]
    fn too_large(request_id: Option<String>) -> Self {
        Self {
            outcome: streamcore::Outcome::TooLarge { request_id },
            returned: None,
        }
    }

    #[getter]
    fn window_state(&self) -> Option<&[u8]> {
        self.returned.as_ref().map(|returned| &*returned.state)
    }

    #[getter]
    fn ends_window(&self) -> bool {
        self.returned
            .as_ref()
            .is_some_and(|returned| returned.ends_window)
    }

    #[getter]
    fn kind(&self) -> &'static str {
        match self.outcome {
            streamcore::Outcome::Success => "success",
            streamcore::Outcome::Failure(_) => "failure",
            streamcore::Outcome::Partial { .. } => "partial",
            streamcore::Outcome::Throttled => "throttled",
            streamcore::Outcome::TooLarge { .. } => "too_large",
        }
    }

    #[getter]
    fn index(&self) -> Option<u32> {
        match self.outcome {
            streamcore::Outcome::Partial { index, .. } => Some(index),
            streamcore::Outcome::Success
            | streamcore::Outcome::Failure(_)
            | streamcore::Outcome::Throttled
            | streamcore::Outcome::TooLarge { .. } => None,
        }
    }

    fn __repr__(&self) -> String {
        match self.index() {
            Some(index) => format!("Outcome.partial({index})"),
            None => format!("Outcome.{}()", self.kind()),
        }
    }
}

#[pyclass(frozen, module = "streamcore._streamcore")]
#[derive(Debug, Clone)]
pub(crate) struct Discard {
    pub(crate) discard: streamcore::Discard,
}

#[pymethods]
impl Discard {
    #[getter]
    fn id(&self) -> u64 {
        self.discard.id().to_u64()
    }

    #[getter]
    fn shard(&self) -> u32 {
        self.discard.id().shard()
    }

    #[getter]
    fn shard_id(&self) -> &str {
        &self.discard.config().key.shard_id
    }

    #[getter]
    fn mapping_uuid(&self) -> &str {
        &self.discard.config().key.mapping_uuid
    }

    #[getter]
    fn condition(&self) -> &'static str {
        self.discard.condition().as_str()
    }

    #[getter]
    fn approximate_invoke_count(&self) -> u32 {
        self.discard.approximate_invoke_count()
    }

    #[getter]
    fn request_id(&self) -> &str {
        self.discard.request_id()
    }

    #[getter]
    fn record_count(&self) -> usize {
        self.discard.len()
    }

    #[getter]
    fn first_sequence_number(&self) -> Option<String> {
        let first = self.discard.first();
        first.map(|record| record.sequence().to_owned())
    }

    #[getter]
    fn last_sequence_number(&self) -> Option<String> {
        let last = self.discard.last();
        last.map(|record| record.sequence().to_owned())
    }

    fn invocation_record<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let json = py.import(intern!(py, "json"))?;
        json.call_method1(intern!(py, "loads"), (self.discard.invocation_record(),))
    }

    fn json<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        event_bytes(py, 0, || self.discard.json())
    }

    fn __repr__(&self) -> String {
        let what = range(
            self.discard.len(),
            self.discard.first(),
            self.discard.last(),
        );
        format!(
            "Discard({}, {what} of {})",
            self.condition(),
            self.shard_id()
        )
    }
}

#[pyclass(frozen, module = "streamcore._streamcore")]
#[derive(Debug)]
pub(crate) struct Finished {
    #[pyo3(get)]
    stale: bool,
    discards: Vec<streamcore::Discard>,
}

impl From<streamcore::Finished> for Finished {
    fn from(finished: streamcore::Finished) -> Self {
        Self {
            stale: finished.stale,
            discards: finished.discards,
        }
    }
}

#[pymethods]
impl Finished {
    #[getter]
    fn discards(&self) -> Vec<Discard> {
        let discards = self.discards.iter().cloned();
        discards.map(|discard| Discard { discard }).collect()
    }
}
