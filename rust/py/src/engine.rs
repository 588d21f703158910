//! The engine behind one lock, with one wake-up: the only ones there are.
//!
//! Calls first try the lock with the interpreter held and let go of it only to wait: a thread that lets go beside busy Python threads
//! comes back milliseconds later. No Python code runs, and no Python object is dropped, while the lock is held.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::MutexExt;
use pyo3::types::{PyDict, PyString};
use streamcore::{
    Checkpoint as CoreCheckpoint, CheckpointKey, Confirmation, DiscardId, LaneState, MappingConfig,
    MappingIdentity, Position, SequenceNumber, ShardConfig, ShardState, Start, StreamClock, Taken,
    Task, Ticket,
};

use crate::batch::{Batch, Discard, EventShape, Finished, Outcome};
use crate::errors::{broken, checkpoint_error, config, forked, usage, usage_error};
use crate::page::{Page, format_named};

/// How many forks this process is away from the one that imported the module.
static FORKS: AtomicU64 = AtomicU64::new(0);

/// Counts a fork; registered to run in each child.
#[pyfunction]
pub(crate) fn _forked() {
    FORKS.fetch_add(1, Ordering::Relaxed);
}

thread_local! {
    /// The engine that last told this thread to wait, and its count of `wake` calls then: one that comes before the thread waits is seen.
    static TOLD_TO_WAIT: Cell<(*const Engine, u64)> = const { Cell::new((std::ptr::null(), 0)) };
}

/// A waiter looks at signals at least this often.
const SIGNAL_PAUSE: Duration = Duration::from_millis(500);

struct State {
    core: streamcore::Engine,
    /// By handle, what events of a shard are copied from.
    shapes: Vec<Option<Arc<EventShape>>>,
    /// `take` has said that there is nothing to do, and nothing has become ready since.
    idle: bool,
    /// Counts calls of `wake`.
    wakes: u64,
    waiters: usize,
}

#[pyclass(frozen, module = "streamcore._streamcore")]
pub(crate) struct Engine {
    state: Mutex<State>,
    ready: Condvar,
    callback: Mutex<Option<Py<PyAny>>>,
    seed: u64,
    forks: u64,
}

impl Engine {
    fn lock(&self, py: Python<'_>) -> PyResult<MutexGuard<'_, State>> {
        if self.forks != FORKS.load(Ordering::Relaxed) {
            return Err(forked());
        }
        self.state.lock_py_attached(py).map_err(|_| broken(py))
    }

    /// Runs a call under the lock, then wakes those that have something to do because of it.
    fn call<T>(
        &self,
        py: Python<'_>,
        call: impl FnOnce(&mut streamcore::Engine) -> T,
    ) -> PyResult<T> {
        let mut state = self.lock(py)?;
        let result = call(&mut state.core);
        let woken = state.core.take_woken();
        let called = woken > 0 && std::mem::replace(&mut state.idle, false);
        let waiters = state.waiters.min(woken);
        drop(state);
        for _ in 0..waiters {
            self.ready.notify_one();
        }
        if called {
            self.call_back(py);
        }
        Ok(result)
    }

    fn call_back(&self, py: Python<'_>) {
        let callback = self.callback.lock_py_attached(py).ok();
        let callback =
            callback.and_then(|callback| callback.as_ref().map(|callback| callback.clone_ref(py)));
        if let Some(callback) = callback
            && let Err(error) = callback.call0(py)
        {
            error.write_unraisable(py, Some(callback.bind(py)));
        }
    }
}

#[pymethods]
impl Engine {
    #[new]
    #[pyo3(signature = (*, budget_bytes = streamcore::BUDGET_BYTES, seed = 0, trace = false),
           text_signature = "(*, budget_bytes=268435456, seed=0, trace=False)")]
    fn new(budget_bytes: usize, seed: u64, trace: bool) -> Self {
        let mut core = streamcore::Engine::new(budget_bytes);
        if trace {
            core.enable_trace();
        }
        Self {
            state: Mutex::new(State {
                core,
                shapes: Vec::new(),
                idle: true,
                wakes: 0,
                waiters: 0,
            }),
            ready: Condvar::new(),
            callback: Mutex::new(None),
            seed,
            forks: FORKS.load(Ordering::Relaxed),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "keyword arguments of Python")]
    #[pyo3(signature = (mapping, shard_id, *, now, identity = "", checkpoint = None, start = "TRIM_HORIZON", start_timestamp_ms = None,
                        retention_ms = None, clock = "wall", format = "kinesis", sync_checkpoints = false, running_max = None))]
    fn add_shard(
        &self,
        py: Python<'_>,
        mapping: &Bound<'_, PyAny>,
        shard_id: String,
        now: i64,
        identity: &str,
        checkpoint: Option<&[u8]>,
        start: &str,
        start_timestamp_ms: Option<i64>,
        retention_ms: Option<i64>,
        clock: &str,
        format: &str,
        sync_checkpoints: bool,
        running_max: Option<usize>,
    ) -> PyResult<u32> {
        let checkpoint = checkpoint.map(CoreCheckpoint::decode).transpose();
        let checkpoint = checkpoint.map_err(|error| checkpoint_error(&error))?;
        let names = MappingIdentity {
            event_source_arn: text(mapping, "event_source_arn")?,
            function_arn: text(mapping, "function_arn")?,
            execution_role_arn: text(mapping, "execution_role_arn")?,
            aws_region: text(mapping, "aws_region")?,
        };
        let uuid = text(mapping, "uuid")?;
        let key = CheckpointKey {
            mapping_uuid: uuid.clone(),
            stream_identity: identity.to_owned(),
            shard_id: shard_id.clone(),
        };
        let shard = ShardConfig {
            format: format_named(format)?,
            start: starting(start, start_timestamp_ms, now)?,
            retention_ms,
            clock: match clock {
                "wall" => StreamClock::Wall,
                "replay" => StreamClock::Replay,
                other => {
                    return Err(config(format!(
                        "clock is {other:?}, and must be 'wall' or 'replay'"
                    )));
                }
            },
            sync_checkpoints,
            seed: self.seed,
            ..ShardConfig::new(key, names.clone(), mapping_config(mapping)?)
        };
        let shape = Arc::new(EventShape::new(shard_id, names));
        let mut state = self.lock(py)?;
        let handle = state
            .core
            .add_shard(shard, checkpoint)
            .map_err(|error| usage_error(&error))?;
        if running_max.is_some() {
            state.core.cap(&uuid, running_max);
        }
        // Handles count up from 0.
        state.shapes.push(Some(shape));
        Ok(handle)
    }

    #[pyo3(signature = (shard, page, now, millis_behind = None))]
    fn offer(
        &self,
        py: Python<'_>,
        shard: u32,
        page: &Page,
        now: i64,
        millis_behind: Option<i64>,
    ) -> PyResult<Offered> {
        let page = Arc::clone(&page.page);
        let offered = self.call(py, |core| core.offer(shard, page, millis_behind, now))?;
        Ok(Offered {
            offered: offered.map_err(|error| usage_error(&error))?,
        })
    }

    fn wants(&self, py: Python<'_>, shard: u32, now: i64) -> PyResult<Option<Want>> {
        let want = self.call(py, |core| core.wants(shard, now))?;
        Ok(want
            .map_err(|error| usage_error(&error))?
            .map(|want| Want { want }))
    }

    fn fetch_failed(&self, py: Python<'_>, shard: u32) -> PyResult<()> {
        self.call(py, |core| core.fetch_failed(shard))?
            .map_err(|error| usage_error(&error))
    }

    fn end(&self, py: Python<'_>, shard: u32, now: i64) -> PyResult<()> {
        self.call(py, |core| core.close(shard, now))?
            .map_err(|error| usage_error(&error))
    }

    fn take(&self, py: Python<'_>, now: i64) -> PyResult<Py<PyAny>> {
        let mut state = self.lock(py)?;
        let taken = state.core.take(now);
        // What became ready beside the task that is given out is worth another waiter.
        let woken = state.core.take_woken().saturating_sub(1).min(state.waiters);
        let shape = match &taken {
            Taken::Task(Task::Run(batch)) => state.shapes[batch.ticket().shard() as usize].clone(),
            Taken::Task(Task::Deliver(_)) => None,
            Taken::Wait(_) => {
                state.idle = true;
                TOLD_TO_WAIT.set((std::ptr::from_ref(self), state.wakes));
                None
            }
        };
        drop(state);
        for _ in 0..woken {
            self.ready.notify_one();
        }
        match (taken, shape) {
            (Taken::Task(Task::Run(batch)), Some(shape)) => {
                Ok(Py::new(py, Batch { batch, shape })?.into_any())
            }
            (Taken::Task(Task::Run(_)), None) => Err(usage("the shard of a batch is gone")),
            (Taken::Task(Task::Deliver(discard)), _) => {
                Ok(Py::new(py, Discard { discard })?.into_any())
            }
            (Taken::Wait(at), _) => Ok(Py::new(py, Wait { at })?.into_any()),
        }
    }

    #[pyo3(signature = (ticket, outcome, now, window_state = None))]
    fn finish(
        &self,
        py: Python<'_>,
        ticket: u64,
        outcome: &Outcome,
        now: i64,
        window_state: Option<Vec<u8>>,
    ) -> PyResult<Finished> {
        let outcome = outcome.outcome.clone();
        let finished = self.call(py, |core| {
            core.finish(Ticket::from_u64(ticket), outcome, window_state, now)
        })?;
        finished
            .map(Finished::from)
            .map_err(|error| usage_error(&error))
    }

    fn confirm(&self, py: Python<'_>, discard: u64, how: &str) -> PyResult<bool> {
        let how = match how {
            "delivered" => Confirmation::Delivered,
            "given_up" => Confirmation::GivenUp,
            other => {
                return Err(config(format!(
                    "how is {other:?}, and must be 'delivered' or 'given_up'"
                )));
            }
        };
        self.call(py, |core| core.confirm(DiscardId::from_u64(discard), how))
    }

    fn checkpoint(&self, py: Python<'_>, shard: u32) -> PyResult<Option<Checkpoint>> {
        let snapshot = self
            .call(py, |core| core.checkpoint(shard))?
            .map_err(|error| usage_error(&error))?;
        Ok(snapshot.map(|snapshot| Checkpoint { shard, snapshot }))
    }

    fn checkpoints(&self, py: Python<'_>) -> PyResult<Vec<Checkpoint>> {
        let snapshots = self.call(py, streamcore::Engine::checkpoints)?;
        let snapshots = snapshots.into_iter();
        Ok(snapshots
            .map(|(shard, snapshot)| Checkpoint { shard, snapshot })
            .collect())
    }

    fn saved(&self, py: Python<'_>, shard: u32, version: u64) -> PyResult<()> {
        self.call(py, |core| core.saved(shard, version))?
            .map_err(|error| usage_error(&error))
    }

    fn pause(&self, py: Python<'_>, shard: u32) -> PyResult<()> {
        self.call(py, |core| core.pause(shard))?
            .map_err(|error| usage_error(&error))
    }

    fn resume(&self, py: Python<'_>, shard: u32, now: i64) -> PyResult<()> {
        self.call(py, |core| core.resume(shard, now))?
            .map_err(|error| usage_error(&error))
    }

    fn drain(&self, py: Python<'_>, shard: u32, now: i64) -> PyResult<()> {
        self.call(py, |core| core.drain(shard, now))?
            .map_err(|error| usage_error(&error))
    }

    fn update(
        &self,
        py: Python<'_>,
        shard: u32,
        mapping: &Bound<'_, PyAny>,
        now: i64,
    ) -> PyResult<()> {
        let mapping = mapping_config(mapping)?;
        self.call(py, |core| core.update(shard, mapping, now))?
            .map_err(|error| usage_error(&error))
    }

    fn remove(&self, py: Python<'_>, shard: u32) -> PyResult<()> {
        self.call(py, |core| core.remove(shard))?
            .map_err(|error| usage_error(&error))?;
        let mut state = self.lock(py)?;
        let shape = state.shapes[shard as usize].take();
        drop(state);
        drop(shape);
        Ok(())
    }

    #[pyo3(signature = (timeout = None))]
    fn wait(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        let mut left = match timeout {
            None => None,
            Some(seconds) if seconds.is_nan() => {
                return Err(config(
                    "timeout is not a number, and must be seconds or None",
                ));
            }
            Some(seconds) => {
                Some(Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX))
            }
        };
        let told = Some(TOLD_TO_WAIT.take()).filter(|(engine, _)| std::ptr::eq(*engine, self));
        let mut wakes = told.map(|(_, wakes)| wakes);
        loop {
            let pause = left.map_or(SIGNAL_PAUSE, |left| left.min(SIGNAL_PAUSE));
            if self.forks != FORKS.load(Ordering::Relaxed) {
                return Err(forked());
            }
            let woken = py.detach(|| -> Option<bool> {
                let mut state = self.state.lock().ok()?;
                let first = *wakes.get_or_insert(state.wakes);
                state.waiters += 1;
                let asleep = |state: &mut State| !state.core.is_ready() && state.wakes == first;
                let (mut state, _) = self.ready.wait_timeout_while(state, pause, asleep).ok()?;
                state.waiters -= 1;
                Some(state.core.is_ready() || state.wakes != first)
            });
            match woken {
                None => return Err(broken(py)),
                Some(true) => return Ok(true),
                Some(false) => {}
            }
            left = left.map(|left| left.saturating_sub(pause));
            if left == Some(Duration::ZERO) {
                return Ok(false);
            }
            py.check_signals()?;
        }
    }

    fn wake(&self, py: Python<'_>) -> PyResult<()> {
        let mut state = self.lock(py)?;
        state.wakes += 1;
        drop(state);
        self.ready.notify_all();
        Ok(())
    }

    fn set_wakeup(&self, py: Python<'_>, callback: Option<Py<PyAny>>) -> PyResult<()> {
        let mut held = self.callback.lock_py_attached(py).map_err(|_| broken(py))?;
        let old = std::mem::replace(&mut *held, callback);
        drop(held);
        drop(old);
        // What is ready already was ready before the callback was there.
        let mut state = self.lock(py)?;
        let called = state.core.is_ready();
        state.idle = !called;
        drop(state);
        if called {
            self.call_back(py);
        }
        Ok(())
    }

    fn stats(&self, py: Python<'_>, shard: u32) -> PyResult<ShardStats> {
        let (stats, key) = self
            .call(py, |core| {
                let stats = core.stats(shard)?;
                let key = core.config(shard)?.key.clone();
                Ok((stats, key))
            })?
            .map_err(|error| usage_error(&error))?;
        Ok(ShardStats { stats, key })
    }

    #[getter]
    fn held_bytes(&self, py: Python<'_>) -> PyResult<usize> {
        self.call(py, |core| core.held_bytes())
    }

    fn reset(&self, py: Python<'_>) -> PyResult<()> {
        self.call(py, streamcore::Engine::reset)?;
        let mut state = self.lock(py)?;
        let mut shapes: Vec<_> = state.shapes.iter().map(|_| None).collect();
        std::mem::swap(&mut shapes, &mut state.shapes);
        drop(state);
        drop(shapes);
        Ok(())
    }

    fn trace(&self, py: Python<'_>) -> PyResult<Vec<String>> {
        let events = self.call(py, streamcore::Engine::drain_trace)?;
        Ok(events
            .iter()
            .map(|(shard, event)| format!("shard={shard} {event}"))
            .collect())
    }

    fn check_invariants(&self, py: Python<'_>) -> PyResult<()> {
        self.call(py, streamcore::Engine::check_invariants)
    }
}

fn text(mapping: &Bound<'_, PyAny>, name: &str) -> PyResult<String> {
    mapping.getattr(name)?.extract()
}

/// Reads Lambda's parameters off a mapping.
fn mapping_config(mapping: &Bound<'_, PyAny>) -> PyResult<MappingConfig> {
    let number = |name: &str| -> PyResult<i64> { mapping.getattr(name)?.extract() };
    let limit = |name: &str| -> PyResult<Option<i64>> {
        Ok(Some(number(name)?).filter(|value| *value >= 0))
    };
    mapping.call_method0("require_supported")?;
    let types: Vec<String> = mapping.getattr("function_response_types")?.extract()?;
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
        report_batch_item_failures: types.iter().any(|name| name == "ReportBatchItemFailures"),
        ..MappingConfig::default()
    })
}

fn starting(start: &str, timestamp_ms: Option<i64>, now: i64) -> PyResult<Start> {
    match (start, timestamp_ms) {
        ("TRIM_HORIZON", _) => Ok(Start::TrimHorizon),
        ("LATEST", at) => Ok(Start::Latest(at.unwrap_or(now))),
        ("AT_TIMESTAMP", Some(at)) => Ok(Start::AtTimestamp(at)),
        ("AT_TIMESTAMP", None) => Err(config(
            "start is AT_TIMESTAMP, and start_timestamp_ms is missing",
        )),
        (other, _) => Err(config(format!(
            "start is {other:?}, and must be 'TRIM_HORIZON', 'LATEST' or 'AT_TIMESTAMP'"
        ))),
    }
}

#[pyclass(frozen, module = "streamcore._streamcore")]
#[derive(Debug)]
pub(crate) struct Offered {
    offered: streamcore::Offered,
}

#[pymethods]
impl Offered {
    #[getter]
    fn accepted(&self) -> bool {
        self.offered.accepted
    }

    #[getter]
    fn records(&self) -> u32 {
        self.offered.records
    }

    #[getter]
    fn duplicates(&self) -> u32 {
        self.offered.duplicates
    }

    #[getter]
    fn complete(&self) -> u32 {
        self.offered.complete
    }
}

#[pyclass(frozen, module = "streamcore._streamcore")]
#[derive(Debug)]
pub(crate) struct Want {
    want: streamcore::Want,
}

#[pymethods]
impl Want {
    #[getter]
    fn after(&self) -> Option<&str> {
        self.want
            .after
            .as_ref()
            .map(|position| position.sequence.as_str())
    }

    #[getter]
    fn limit(&self) -> u32 {
        self.want.limit
    }
}

#[pyclass(frozen, get_all, module = "streamcore._streamcore")]
#[derive(Debug)]
pub(crate) struct Wait {
    at: Option<i64>,
}

#[pyclass(frozen, module = "streamcore._streamcore")]
#[derive(Debug)]
pub(crate) struct Checkpoint {
    shard: u32,
    snapshot: streamcore::Snapshot,
}

#[pymethods]
impl Checkpoint {
    #[getter]
    fn shard(&self) -> u32 {
        self.shard
    }

    #[getter]
    fn version(&self) -> u64 {
        self.snapshot.version
    }

    #[getter]
    fn ended(&self) -> bool {
        self.snapshot.checkpoint.ended
    }

    #[getter]
    fn watermark(&self) -> Option<&str> {
        let watermark = self.snapshot.checkpoint.watermark.as_ref();
        watermark.map(|position| position.sequence.as_str())
    }

    #[getter]
    fn blob(&self) -> Vec<u8> {
        self.snapshot.checkpoint.encode()
    }

    #[staticmethod]
    fn inspect<'py>(py: Python<'py>, blob: &[u8]) -> PyResult<Bound<'py, PyDict>> {
        let checkpoint = CoreCheckpoint::decode(blob).map_err(|error| checkpoint_error(&error))?;
        let (start, at) = match checkpoint.start {
            Start::TrimHorizon => ("TRIM_HORIZON", None),
            Start::Latest(at) => ("LATEST", Some(at)),
            Start::AtTimestamp(at) => ("AT_TIMESTAMP", Some(at)),
        };
        let sequence = |position: &Option<Position>| {
            position
                .as_ref()
                .map(|position| position.sequence.as_str().to_owned())
        };
        let dict = PyDict::new(py);
        dict.set_item("mapping_uuid", &checkpoint.key.mapping_uuid)?;
        dict.set_item("stream_identity", &checkpoint.key.stream_identity)?;
        dict.set_item("shard_id", &checkpoint.key.shard_id)?;
        dict.set_item("starting_position", start)?;
        dict.set_item("starting_position_timestamp_ms", at)?;
        dict.set_item("watermark", sequence(&checkpoint.watermark))?;
        let lanes = checkpoint.lanes.iter().map(|tag| {
            let lanes = PyDict::new(py);
            lanes.set_item("lane_function", tag.lane_function)?;
            lanes.set_item("marks", tag.marks.iter().map(sequence).collect::<Vec<_>>())?;
            Ok(lanes)
        });
        dict.set_item("lanes", lanes.collect::<PyResult<Vec<_>>>()?)?;
        dict.set_item("ended", checkpoint.ended)?;
        Ok(dict)
    }

    #[staticmethod]
    #[pyo3(signature = (blob, start, *, timestamp_ms = None, sequence_number = None))]
    fn rewound(
        blob: &[u8],
        start: &str,
        timestamp_ms: Option<i64>,
        sequence_number: Option<&str>,
    ) -> PyResult<Vec<u8>> {
        let mut checkpoint =
            CoreCheckpoint::decode(blob).map_err(|error| checkpoint_error(&error))?;
        match (start, timestamp_ms, sequence_number) {
            ("AFTER_SEQUENCE_NUMBER", _, Some(number)) => {
                let sequence =
                    SequenceNumber::parse(number).map_err(|error| config(error.to_string()))?;
                checkpoint.rewind(
                    checkpoint.start,
                    Some(Position {
                        sequence,
                        sub: u32::MAX,
                    }),
                );
            }
            ("AFTER_SEQUENCE_NUMBER", _, None) => {
                return Err(config(
                    "start is AFTER_SEQUENCE_NUMBER, and sequence_number is missing",
                ));
            }
            ("LATEST", None, _) => {
                return Err(config(
                    "start is LATEST, and timestamp_ms, the instant it stands for, is missing",
                ));
            }
            _ => checkpoint.rewind(starting(start, timestamp_ms, 0)?, None),
        }
        Ok(checkpoint.encode())
    }
}

#[pyclass(frozen, module = "streamcore._streamcore")]
#[derive(Debug)]
pub(crate) struct ShardStats {
    stats: streamcore::ShardStats,
    key: CheckpointKey,
}

#[pymethods]
impl ShardStats {
    #[getter]
    fn shard_id(&self) -> &str {
        &self.key.shard_id
    }

    #[getter]
    fn mapping_uuid(&self) -> &str {
        &self.key.mapping_uuid
    }

    #[getter]
    fn state(&self) -> &'static str {
        match self.stats.state {
            ShardState::Running => "running",
            ShardState::Paused => "paused",
            ShardState::Draining => "draining",
            ShardState::Drained => "drained",
            ShardState::Ended => "ended",
        }
    }

    #[getter]
    fn held_records(&self) -> u64 {
        self.stats.held_records
    }

    #[getter]
    fn held_bytes(&self) -> usize {
        self.stats.held_bytes
    }

    #[getter]
    fn span(&self) -> u64 {
        self.stats.span
    }

    #[getter]
    fn in_flight(&self) -> usize {
        self.stats.in_flight
    }

    #[getter]
    fn unconfirmed_discards(&self) -> usize {
        self.stats.unconfirmed_discards
    }

    #[getter]
    fn watermark(&self) -> Option<&str> {
        self.stats
            .watermark
            .as_ref()
            .map(|position| position.sequence.as_str())
    }

    #[getter]
    fn last_taken_in(&self) -> Option<&str> {
        self.stats
            .last_taken_in
            .as_ref()
            .map(|position| position.sequence.as_str())
    }

    #[getter]
    fn millis_behind(&self) -> Option<i64> {
        self.stats.millis_behind
    }

    #[getter]
    fn records(&self) -> u64 {
        self.stats.counters.records
    }

    #[getter]
    fn duplicates(&self) -> u64 {
        self.stats.counters.duplicates
    }

    #[getter]
    fn already_complete(&self) -> u64 {
        self.stats.counters.already_complete
    }

    #[getter]
    fn succeeded(&self) -> u64 {
        self.stats.counters.succeeded
    }

    #[getter]
    fn discarded(&self) -> u64 {
        self.stats.counters.discarded
    }

    #[getter]
    fn discards(&self) -> u64 {
        self.stats.counters.discards
    }

    #[getter]
    fn expired(&self) -> u64 {
        self.stats.counters.expired
    }

    #[getter]
    fn invocations(&self) -> u64 {
        self.stats.counters.invocations
    }

    #[getter]
    fn failed_invocations(&self) -> u64 {
        self.stats.counters.failed_invocations
    }

    #[getter]
    fn retries(&self) -> u64 {
        self.stats.counters.retries
    }

    #[getter]
    fn throttles(&self) -> u64 {
        self.stats.counters.throttles
    }

    #[getter]
    fn lanes<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyDict>>> {
        let lanes = self.stats.lanes.iter().map(|lane| {
            let (state, until) = match lane.state {
                LaneState::Empty => ("empty", None),
                LaneState::Waiting(until) => ("waiting", Some(until)),
                LaneState::Ready => ("ready", None),
                LaneState::InFlight(_) => ("in_flight", None),
                LaneState::Parked(until) => ("parked", Some(until)),
            };
            let dict = PyDict::new(py);
            dict.set_item(intern!(py, "state"), PyString::new(py, state))?;
            dict.set_item(intern!(py, "records"), lane.records)?;
            dict.set_item(intern!(py, "attempts"), lane.attempts)?;
            dict.set_item(intern!(py, "until"), until)?;
            dict.set_item(
                intern!(py, "first_sequence_number"),
                lane.first_sequence_number.as_deref(),
            )?;
            Ok(dict)
        });
        lanes.collect()
    }
}
