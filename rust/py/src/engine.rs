//! The engine behind one lock, with one wake-up: the only ones there are.
//!
//! Calls first try the lock with the interpreter held and let go of it only to wait: a thread that lets go beside busy Python threads
//! comes back milliseconds later. No Python code runs while the lock is held, and no Python object is
//! dropped but such as run none when they go: texts, numbers, and dicts and lists that were made just now.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, TryLockError};
use std::time::Duration;

use pyo3::exceptions::PyTypeError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::sync::MutexExt;
use streamcore::{
    Attachment, Checkpoint as CoreCheckpoint, CheckpointKey, Confirmation, DiscardId, InFlight,
    ShardConfig, StreamClock, Taken, Task, Ticket,
};

use crate::arguments::{self, mapping_config, mapping_identity, starting};
use crate::batch::{Batch, Discard, Finished, Outcome, SUCCESS};
use crate::checkpoint::Checkpoint;
use crate::errors::{broken, checkpoint_error, config, forked, usage_error};
use crate::event::EventShape;
use crate::invoke::Calls;
use crate::objects::fetch_ahead;
use crate::page::{DETACH_BYTES, Page, format_named};
use crate::stats::ShardStats;

/// How many forks this process is away from the one that imported the module.
static FORKS: AtomicU64 = AtomicU64::new(0);

/// Counts a fork; registered to run in each child.
#[pyfunction]
pub(crate) fn _forked() {
    FORKS.fetch_add(1, Ordering::Relaxed);
}

/// Tells engines apart, those that are gone included.
static ENGINES: AtomicU64 = AtomicU64::new(1);

/// What `take` told a thread when it had nothing: a change between that and `wait` is seen.
#[derive(Debug, Clone, Copy, Default)]
struct Told {
    engine: u64,
    /// Calls of `wake` until then.
    wakes: u64,
    /// The instant at which to ask again.
    at: Option<i64>,
}

thread_local! {
    static TOLD: Cell<Told> = Cell::new(Told::default());
}

/// A waiter looks at signals at least this often.
const SIGNAL_PAUSE: Duration = Duration::from_millis(500);

/// What a call under the lock has led to, for those who wait.
#[derive(Default)]
struct News {
    /// How many things have become ready.
    woken: usize,
    /// The timer is earlier than it was.
    sooner: bool,
    /// To be called.
    callback: Option<Py<PyAny>>,
}

struct State {
    core: streamcore::Engine,
    /// Called once when what `take` last said no longer holds.
    callback: Option<Py<PyAny>>,
    /// `take` has said that there is nothing to do, and nothing has become ready since.
    idle: bool,
    /// The earliest instant at which a lane becomes ready by itself. Whoever waits was told of it or of an earlier one.
    timer: Option<i64>,
    /// Counts calls of `wake`.
    wakes: u64,
    waiters: usize,
}

impl State {
    /// Whether a thread that was told this has something to do before its time.
    fn has_news(&self, told: Told) -> bool {
        self.core.is_ready() || self.wakes != told.wakes || is_sooner(self.timer, told.at)
    }

    /// What a call has led to.
    fn news(&mut self, py: Python<'_>) -> News {
        let woken = self.core.take_woken();
        let sooner = self.move_timer();
        let called = (woken > 0 || sooner) && std::mem::replace(&mut self.idle, false);
        let callback = self.callback.as_ref().filter(|_| called);
        News {
            woken,
            sooner,
            callback: callback.map(|callback| callback.clone_ref(py)),
        }
    }

    /// The next thing to do, or when to ask again. Whoever takes it needs not be told of it.
    fn take<T>(
        &mut self,
        engine: u64,
        now: i64,
        news: &mut News,
        read: impl FnOnce(InFlight<'_>) -> T,
    ) -> Next<T> {
        let taken = self.core.take_with(now, read);
        // What became ready beside the task that is given out is worth another waiter.
        news.woken = (news.woken + self.core.take_woken()).saturating_sub(1);
        news.sooner |= self.move_timer();
        match taken {
            Taken::Task(Task::Run(batch)) => Next::Run(batch),
            Taken::Task(Task::Deliver(discard)) => Next::Deliver(discard),
            Taken::Wait(at) => {
                self.idle = true;
                TOLD.set(Told {
                    engine,
                    wakes: self.wakes,
                    at,
                });
                Next::Wait(at)
            }
        }
    }

    /// Brings `timer` up to date. True if it is earlier than it was.
    fn move_timer(&mut self) -> bool {
        // While something is ready, the timer is looked at when the last of it is taken.
        if self.core.is_ready() {
            return false;
        }
        let at = self.core.next_wake();
        is_sooner(at, std::mem::replace(&mut self.timer, at))
    }
}

fn is_sooner(at: Option<i64>, than: Option<i64>) -> bool {
    at.is_some_and(|at| than.is_none_or(|than| at < than))
}

// The signature of `add_shard` shows it.
const _: () = assert!(streamcore::WINDOW_GRACE_MS == 120_000);

#[pyclass(frozen, module = "streamcore._streamcore")]
pub(crate) struct Engine {
    state: Mutex<State>,
    ready: Condvar,
    id: u64,
    seed: u64,
    forks: u64,
}

impl Engine {
    #[inline]
    fn lock(&self, py: Python<'_>) -> PyResult<MutexGuard<'_, State>> {
        if self.forks != FORKS.load(Ordering::Relaxed) {
            return Err(forked());
        }
        self.state.lock_py_attached(py).map_err(|_| broken())
    }

    /// Runs a call under the lock, then wakes those that have something to do because of it.
    fn call<T>(&self, py: Python<'_>, call: impl FnOnce(&mut State) -> T) -> PyResult<T> {
        let mut state = self.lock(py)?;
        let result = call(&mut state);
        let news = state.news(py);
        self.tell(py, state, news);
        Ok(result)
    }

    /// The next thing to do, or when to ask again. `read` runs under the lock.
    pub(crate) fn next<T>(
        &self,
        py: Python<'_>,
        now: i64,
        read: impl FnOnce(InFlight<'_>) -> T,
    ) -> PyResult<Next<T>> {
        let mut state = self.lock(py)?;
        let mut news = News::default();
        let next = state.take(self.id, now, &mut news, read);
        self.tell(py, state, news);
        Ok(next)
    }

    /// Says that a batch has succeeded, if there is one, and takes the next thing to do under the same lock. None where that batch has led
    /// to discards, which come first.
    #[inline]
    pub(crate) fn succeed_and_next<T>(
        &self,
        py: Python<'_>,
        succeeded: Option<Ticket>,
        now: i64,
        discards: &mut Vec<streamcore::Discard>,
        read: impl FnOnce(InFlight<'_>) -> T,
    ) -> Result<Option<Next<T>>, Box<PyErr>> {
        let mut state = self.lock(py)?;
        let mut news = News::default();
        if let Some(ticket) = succeeded {
            let success = streamcore::Outcome::Success;
            let finished = state.core.finish(ticket, success, None, now);
            news = state.news(py);
            if !matches!(&finished, Ok(finished) if finished.discards.is_empty()) {
                self.tell(py, state, news);
                *discards = finished.map_err(|error| usage_error(&error))?.discards;
                return Ok(None);
            }
        }
        let next = state.take(self.id, now, &mut news, read);
        self.tell(py, state, news);
        Ok(Some(next))
    }

    /// The batch in flight of a ticket; None where it is in flight no more.
    pub(crate) fn batch(&self, py: Python<'_>, ticket: Ticket) -> PyResult<Option<Batch>> {
        let batch = self.lock(py)?.core.batch(ticket);
        Ok(batch.map(|batch| Batch { batch }))
    }

    /// Says how a batch went.
    pub(crate) fn end_batch(
        &self,
        py: Python<'_>,
        ticket: Ticket,
        outcome: &Outcome,
        now: i64,
    ) -> Result<streamcore::Finished, Box<PyErr>> {
        let mut state = self.lock(py)?;
        let finished = if *outcome == SUCCESS {
            let success = streamcore::Outcome::Success;
            state.core.finish(ticket, success, None, now)
        } else {
            let Outcome { outcome, returned } = outcome.clone();
            state.core.finish(ticket, outcome, returned, now)
        };
        let news = state.news(py);
        self.tell(py, state, news);
        finished.map_err(|error| Box::new(usage_error(&error)))
    }

    /// Lets go of the lock and tells the news: wakes a waiter for each thing that has become ready, and calls back.
    ///
    /// An earlier timer wakes them all: one that is busy when the time comes could not keep it for the others.
    #[inline]
    fn tell(&self, py: Python<'_>, state: MutexGuard<'_, State>, news: News) {
        let waiters = news.woken.min(state.waiters);
        drop(state);
        if news.sooner {
            self.ready.notify_all();
        } else {
            (0..waiters).for_each(|_| self.ready.notify_one());
        }
        if let Some(callback) = news.callback {
            call_back(py, &callback);
        }
    }
}

/// What [`Engine::next`] gives.
pub(crate) enum Next<T> {
    Run(T),
    Deliver(Box<streamcore::Discard>),
    Wait(Option<i64>),
}

fn call_back(py: Python<'_>, callback: &Py<PyAny>) {
    if let Err(error) = callback.call0(py) {
        error.write_unraisable(py, Some(callback.bind(py)));
    }
}

#[pymethods]
impl Engine {
    #[new]
    #[pyo3(signature = (*, budget_bytes = streamcore::BUDGET_BYTES, seed = 0, trace = false),
           text_signature = "(*, budget_bytes=268435456, seed=0, trace=False)")]
    fn new(
        #[pyo3(from_py_with = arguments::budget_bytes)] budget_bytes: usize,
        #[pyo3(from_py_with = arguments::seed)] seed: u64,
        trace: bool,
    ) -> Self {
        let mut core = streamcore::Engine::new(budget_bytes);
        if trace {
            core.enable_trace();
        }
        Self {
            state: Mutex::new(State {
                core,
                callback: None,
                idle: true,
                timer: None,
                wakes: 0,
                waiters: 0,
            }),
            ready: Condvar::new(),
            id: ENGINES.fetch_add(1, Ordering::Relaxed),
            seed,
            forks: FORKS.load(Ordering::Relaxed),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "keyword arguments of Python")]
    #[pyo3(signature = (mapping, shard_id, *, now, identity = "", checkpoint = None, start = "TRIM_HORIZON", start_timestamp_ms = None,
                        retention_ms = None, clock = "wall", format = "kinesis", sync_checkpoints = false, running_max = None,
                        window_grace_ms = 120_000))]
    fn add_shard(
        &self,
        py: Python<'_>,
        mapping: &Bound<'_, PyAny>,
        shard_id: String,
        #[pyo3(from_py_with = arguments::now)] now: i64,
        identity: &str,
        checkpoint: Option<&[u8]>,
        start: &str,
        #[pyo3(from_py_with = arguments::start_timestamp_ms)] start_timestamp_ms: Option<i64>,
        #[pyo3(from_py_with = arguments::retention_ms)] retention_ms: Option<i64>,
        clock: &str,
        format: &str,
        sync_checkpoints: bool,
        #[pyo3(from_py_with = arguments::running_max)] running_max: Option<usize>,
        #[pyo3(from_py_with = arguments::window_grace_ms)] window_grace_ms: i64,
    ) -> PyResult<u32> {
        let (uuid, names) = mapping_identity(mapping)?;
        let checkpoint = checkpoint.map(CoreCheckpoint::decode).transpose();
        let checkpoint = checkpoint.map_err(|error| checkpoint_error(&error))?;
        let key = CheckpointKey {
            mapping_uuid: uuid.clone(),
            stream_identity: identity.to_owned(),
            shard_id: shard_id.clone(),
        };
        let shard = ShardConfig {
            format: format_named(format)?,
            start: starting(start, start_timestamp_ms, "start_timestamp_ms", Some(now))?,
            retention_ms,
            clock: match clock {
                "wall" => StreamClock::Wall,
                "replay" => StreamClock::Replay,
                other => {
                    return Err(config(
                        "clock",
                        format!("clock is {other:?}, and must be 'wall' or 'replay'"),
                    ));
                }
            },
            window_grace_ms,
            sync_checkpoints,
            seed: self.seed,
            attachment: Some(Attachment::new(EventShape::new(shard_id, names.clone()))),
            ..ShardConfig::new(key, names, mapping_config(mapping)?)
        };
        let shape = shard.attachment.clone();
        let added = self.call(py, |state| {
            let handle = state.core.add_shard(shard, checkpoint)?;
            if running_max.is_some() {
                state.core.cap(&uuid, running_max);
            }
            Ok(handle)
        });
        drop(shape);
        added?.map_err(|error| usage_error(&error))
    }

    #[pyo3(signature = (shard, page, now, millis_behind = None))]
    fn offer(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = arguments::shard)] shard: u32,
        page: &Page,
        #[pyo3(from_py_with = arguments::now)] now: i64,
        #[pyo3(from_py_with = arguments::millis_behind)] millis_behind: Option<i64>,
    ) -> PyResult<Offered> {
        let page = Arc::clone(&page.page);
        let sieve = self.call(py, |state| state.core.sieve(shard))?;
        let sieve = sieve.map_err(|error| usage_error(&error))?;
        // Judging a page takes as long as parsing it, so it is done without the lock too.
        let sifted = sieve.map(|sieve| {
            if page.held_bytes() < DETACH_BYTES {
                sieve.sift_with(&page, fetch_ahead)
            } else {
                py.detach(|| sieve.sift_with(&page, fetch_ahead))
            }
        });
        let offered = self.call(py, |state| {
            state
                .core
                .offer_sifted(shard, page, sifted, millis_behind, now)
        })?;
        Ok(Offered {
            offered: offered.map_err(|error| usage_error(&error))?,
        })
    }

    fn wants(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = arguments::shard)] shard: u32,
        #[pyo3(from_py_with = arguments::now)] now: i64,
    ) -> PyResult<Option<Want>> {
        let want = self.call(py, |state| state.core.wants(shard, now))?;
        Ok(want
            .map_err(|error| usage_error(&error))?
            .map(|want| Want { want }))
    }

    fn fetch_failed(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = arguments::shard)] shard: u32,
    ) -> PyResult<()> {
        self.call(py, |state| state.core.fetch_failed(shard))?
            .map_err(|error| usage_error(&error))
    }

    fn end(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = arguments::shard)] shard: u32,
        #[pyo3(from_py_with = arguments::now)] now: i64,
    ) -> PyResult<()> {
        self.call(py, |state| state.core.close(shard, now))?
            .map_err(|error| usage_error(&error))
    }

    #[expect(
        clippy::redundant_closure_for_method_calls,
        reason = "the method itself is of one lifetime"
    )]
    fn take(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = arguments::now)] now: i64,
    ) -> PyResult<Py<PyAny>> {
        Ok(match self.next(py, now, |in_flight| in_flight.batch())? {
            Next::Run(batch) => Py::new(py, Batch { batch })?.into_any(),
            Next::Deliver(discard) => Py::new(py, Discard { discard: *discard })?.into_any(),
            Next::Wait(at) => Py::new(py, Wait { at })?.into_any(),
        })
    }

    fn finish(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = arguments::ticket)] ticket: u64,
        outcome: &Outcome,
        #[pyo3(from_py_with = arguments::now)] now: i64,
    ) -> PyResult<Py<Finished>> {
        let ticket = Ticket::from_u64(ticket);
        let finished = self.end_batch(py, ticket, outcome, now);
        Finished::new(py, finished.map_err(|error| *error)?)
    }

    #[pyo3(signature = (handler, clock, on_discard, on_error = None))]
    fn invoke_ready(
        &self,
        py: Python<'_>,
        handler: &Bound<'_, PyAny>,
        clock: &Bound<'_, PyAny>,
        on_discard: &Bound<'_, PyAny>,
        on_error: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Option<i64>> {
        let calls = Calls {
            handler,
            clock,
            on_discard,
            on_error,
        };
        calls.invoke_ready(py, self)
    }

    fn confirm(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = arguments::discard)] discard: u64,
        how: &str,
    ) -> PyResult<bool> {
        let how = match how {
            "delivered" => Confirmation::Delivered,
            "given_up" => Confirmation::GivenUp,
            other => {
                return Err(config(
                    "how",
                    format!("how is {other:?}, and must be 'delivered' or 'given_up'"),
                ));
            }
        };
        self.call(py, |state| {
            state.core.confirm(DiscardId::from_u64(discard), how)
        })
    }

    fn checkpoint(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = arguments::shard)] shard: u32,
    ) -> PyResult<Option<Checkpoint>> {
        let snapshot = self
            .call(py, |state| state.core.checkpoint(shard))?
            .map_err(|error| usage_error(&error))?;
        Ok(snapshot.map(|snapshot| Checkpoint { shard, snapshot }))
    }

    fn checkpoints(&self, py: Python<'_>) -> PyResult<Vec<Checkpoint>> {
        let snapshots = self.call(py, |state| state.core.checkpoints())?;
        let snapshots = snapshots.into_iter();
        Ok(snapshots
            .map(|(shard, snapshot)| Checkpoint { shard, snapshot })
            .collect())
    }

    fn saved(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = arguments::shard)] shard: u32,
        #[pyo3(from_py_with = arguments::version)] version: u64,
    ) -> PyResult<()> {
        self.call(py, |state| state.core.saved(shard, version))?
            .map_err(|error| usage_error(&error))
    }

    fn pause(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = arguments::shard)] shard: u32,
    ) -> PyResult<()> {
        self.call(py, |state| state.core.pause(shard))?
            .map_err(|error| usage_error(&error))
    }

    fn resume(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = arguments::shard)] shard: u32,
        #[pyo3(from_py_with = arguments::now)] now: i64,
    ) -> PyResult<()> {
        self.call(py, |state| state.core.resume(shard, now))?
            .map_err(|error| usage_error(&error))
    }

    fn drain(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = arguments::shard)] shard: u32,
        #[pyo3(from_py_with = arguments::now)] now: i64,
    ) -> PyResult<()> {
        self.call(py, |state| state.core.drain(shard, now))?
            .map_err(|error| usage_error(&error))
    }

    fn update(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = arguments::shard)] shard: u32,
        mapping: &Bound<'_, PyAny>,
        #[pyo3(from_py_with = arguments::now)] now: i64,
    ) -> PyResult<()> {
        let mapping = mapping_config(mapping)?;
        self.call(py, |state| state.core.update(shard, mapping, now))?
            .map_err(|error| usage_error(&error))
    }

    fn remove(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = arguments::shard)] shard: u32,
    ) -> PyResult<()> {
        let config = self.call(py, |state| state.core.remove(shard))?;
        // What is attached to it holds Python objects, which are not let go of under the lock.
        config.map(drop).map_err(|error| usage_error(&error))
    }

    #[pyo3(signature = (timeout = None))]
    fn wait(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        let mut left = match timeout {
            None => None,
            Some(seconds) if seconds.is_nan() => {
                return Err(config(
                    "timeout",
                    "timeout is not a number, and must be seconds or None",
                ));
            }
            Some(seconds) => {
                Some(Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX))
            }
        };
        let mut told = Some(TOLD.take()).filter(|told| told.engine == self.id);
        loop {
            let pause = left.map_or(SIGNAL_PAUSE, |left| left.min(SIGNAL_PAUSE));
            if self.forks != FORKS.load(Ordering::Relaxed) {
                return Err(forked());
            }
            let woken = py.detach(|| -> Option<bool> {
                let mut state = self.state.lock().ok()?;
                let told = *told.get_or_insert(Told {
                    engine: self.id,
                    wakes: state.wakes,
                    at: state.timer,
                });
                state.waiters += 1;
                let asleep = |state: &mut State| !state.has_news(told);
                let (mut state, _) = self.ready.wait_timeout_while(state, pause, asleep).ok()?;
                state.waiters -= 1;
                Some(state.has_news(told))
            });
            match woken {
                None => return Err(broken()),
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
        if let Some(callback) = &callback
            && !callback.bind(py).is_callable()
        {
            let found = callback.bind(py).get_type().name()?;
            return Err(PyTypeError::new_err(format!(
                "callback must be callable or None, not {found}"
            )));
        }
        let new = callback.as_ref().map(|callback| callback.clone_ref(py));
        let mut state = self.lock(py)?;
        let old = std::mem::replace(&mut state.callback, callback);
        // What is ready already was ready before the callback was there.
        let called = state.core.is_ready();
        state.idle = !called;
        drop(state);
        drop(old);
        if let Some(new) = new.filter(|_| called) {
            call_back(py, &new);
        }
        Ok(())
    }

    fn stats(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = arguments::shard)] shard: u32,
    ) -> PyResult<ShardStats> {
        let (stats, key) = self
            .call(py, |state| {
                let stats = state.core.stats(shard)?;
                let key = state.core.config(shard)?.key.clone();
                Ok((stats, key))
            })?
            .map_err(|error| usage_error(&error))?;
        Ok(ShardStats { stats, key })
    }

    #[getter]
    fn held_bytes(&self, py: Python<'_>) -> PyResult<usize> {
        self.call(py, |state| state.core.held_bytes())
    }

    #[getter]
    fn done(&self, py: Python<'_>) -> PyResult<bool> {
        self.call(py, |state| state.core.is_done())
    }

    #[getter]
    fn unsaved_ends(&self, py: Python<'_>) -> PyResult<usize> {
        self.call(py, |state| state.core.unsaved_ends())
    }

    fn reset(&self, py: Python<'_>) -> PyResult<()> {
        let configs = self.call(py, |state| state.core.reset())?;
        // What is attached to them holds Python objects, which are not let go of under the lock.
        drop(configs);
        Ok(())
    }

    fn trace(&self, py: Python<'_>) -> PyResult<Vec<String>> {
        let events = self.call(py, |state| state.core.drain_trace())?;
        Ok(events
            .iter()
            .map(|(shard, event)| format!("shard={shard} {event}"))
            .collect())
    }

    fn check_invariants(&self, py: Python<'_>) -> PyResult<()> {
        self.call(py, |state| state.core.check_invariants())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        // What is locked now is looked at by the next collection.
        let state = match self.state.try_lock() {
            Ok(state) => state,
            Err(TryLockError::Poisoned(state)) => state.into_inner(),
            Err(TryLockError::WouldBlock) => return Ok(()),
        };
        visit.call(&state.callback)
    }

    fn __clear__(&self) {
        let callback = self
            .state
            .try_lock()
            .ok()
            .and_then(|mut state| state.callback.take());
        drop(callback);
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

    #[getter]
    fn filtered(&self) -> u32 {
        self.offered.filtered
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
