//! Batches, their events, and what comes back of them.

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyCapsule, PyDict, PyTuple};
use streamcore::{Records, Response, ReturnedState};

use crate::arguments;
use crate::columns::{self, Columns};
use crate::event::EventShape;
use crate::objects;

/// Events of at least so many bytes are written with the interpreter released.
const DETACH_BYTES: usize = 64 << 10;

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

#[pyclass(frozen, module = "streamcore._streamcore")]
pub(crate) struct Batch {
    pub(crate) batch: streamcore::Batch,
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
    fn request_id(&self) -> String {
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
        let records = self.batch.records();
        records.first().map(|record| record.sequence().to_owned())
    }

    #[getter]
    fn last_sequence_number(&self) -> Option<String> {
        let records = self.batch.records();
        records.last().map(|record| record.sequence().to_owned())
    }

    #[getter]
    fn last_arrival_ms(&self) -> Option<i64> {
        let records = self.batch.records();
        records.last().map(|record| record.arrival_ms())
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
        let what = range(&self.batch.records());
        let (shard_id, attempt) = (self.shard_id(), self.batch.attempt());
        format!("Batch({what} of {shard_id}, attempt {attempt})")
    }

    fn index_of(&self, sequence_number: &str) -> Option<usize> {
        self.batch.index_of(sequence_number)
    }

    pub(crate) fn event<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let shape = self.batch.attachment::<EventShape>();
        let shape = shape.expect("each shard is made with the shape of its events");
        shape.event(py, &self.batch)
    }

    fn json<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        if self.batch.window().is_some() {
            // Its size is known only to within two bytes.
            return Ok(PyBytes::new(py, &py.detach(|| self.batch.json())));
        }
        // Written where it stays: a large event is memory that the system has to find, and it would have to find it twice.
        let length = self.batch.json_bytes();
        objects::bytes(py, length, |event| {
            if length < DETACH_BYTES {
                self.batch.write_json(event);
            } else {
                py.detach(|| self.batch.write_json(event));
            }
        })
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
fn range(records: &Records) -> String {
    match (records.first(), records.last()) {
        (Some(first), Some(last)) => {
            format!(
                "{} records {}..{}",
                records.len(),
                first.sequence(),
                last.sequence()
            )
        }
        _ => "closing call".to_owned(),
    }
}

#[pyclass(frozen, eq, hash, module = "streamcore._streamcore")]
#[derive(Debug, PartialEq, Clone)]
pub(crate) struct Outcome {
    pub(crate) outcome: streamcore::Outcome,
    pub(crate) returned: Option<ReturnedState>,
}

pub(crate) const SUCCESS: Outcome = Outcome {
    outcome: streamcore::Outcome::Success,
    returned: None,
};

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

impl Outcome {
    /// The function raised.
    pub(crate) fn unhandled() -> Self {
        Self {
            outcome: streamcore::Outcome::Failure(Box::new(Response {
                function_error: Some("Unhandled".to_owned()),
                ..Response::default()
            })),
            returned: None,
        }
    }
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
            outcome: streamcore::Outcome::Failure(Box::new(response(
                function_error,
                status_code,
                executed_version,
                request_id,
            ))),
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
        let response = Box::new(response(None, status_code, executed_version, request_id));
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
        let first = self.discard.records().first();
        first.map(|record| record.sequence().to_owned())
    }

    #[getter]
    fn last_sequence_number(&self) -> Option<String> {
        let last = self.discard.records().last();
        last.map(|record| record.sequence().to_owned())
    }

    fn invocation_record<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let json = py.import(intern!(py, "json"))?;
        json.call_method1(intern!(py, "loads"), (self.discard.invocation_record(),))
    }

    fn json<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.discard.json())
    }

    fn __repr__(&self) -> String {
        let what = range(self.discard.records());
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

/// What most batches lead to: nothing. One object serves them all.
static NOTHING: PyOnceLock<Py<Finished>> = PyOnceLock::new();

impl Finished {
    pub(crate) fn new(py: Python<'_>, finished: streamcore::Finished) -> PyResult<Py<Self>> {
        let is_nothing = !finished.stale && finished.discards.is_empty();
        let own = || {
            let streamcore::Finished { stale, discards } = finished;
            Py::new(py, Self { stale, discards })
        };
        if is_nothing {
            Ok(NOTHING.get_or_try_init(py, own)?.clone_ref(py))
        } else {
            own()
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
