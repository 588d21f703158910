//! `Engine.invoke_ready`: take, event, handler, answer and finish in one loop, without an object for the batch or a crossing for each
//! step. Each step is the one that `take`, `Batch.event`, `interpret` and `finish` make.

use pyo3::exceptions::PyKeyboardInterrupt;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use crate::arguments;
use crate::batch::{Batch, Discard, Outcome};
use crate::engine::{Engine, Next};

const SUCCESS: Outcome = Outcome {
    outcome: streamcore::Outcome::Success,
    returned: None,
};

/// What the caller is called back with.
pub(crate) struct Calls<'a, 'py> {
    pub(crate) handler: &'a Bound<'py, PyAny>,
    pub(crate) clock: &'a Bound<'py, PyAny>,
    pub(crate) on_discard: &'a Bound<'py, PyAny>,
    pub(crate) on_error: Option<&'a Bound<'py, PyAny>>,
}

impl Calls<'_, '_> {
    pub(crate) fn invoke_ready(&self, py: Python<'_>, engine: &Engine) -> PyResult<Option<i64>> {
        let mut now = self.now()?;
        let mut next = engine.next(py, now)?;
        loop {
            let batch = match next {
                Next::Run(batch) => batch,
                Next::Deliver(discard) => {
                    self.on_discard.call1((Discard { discard: *discard },))?;
                    next = engine.next(py, now)?;
                    continue;
                }
                Next::Wait(at) => return Ok(at),
            };
            let ticket = batch.batch.ticket();
            // Whatever is raised on the way, the batch is finished first, so that its lane never hangs, and no discard is lost.
            let (outcome, told) = self.outcome(py, batch);
            let instant = self.now();
            now = *instant.as_ref().unwrap_or(&now);
            let told = told.and(instant.map(drop));
            // Where handler and clock are not Python code, nothing else looks for Ctrl-C.
            let told = told.and_then(|()| py.check_signals());
            let (discards, taken) = if told.is_ok() {
                engine.end_batch_and_next(py, ticket, outcome, now)?
            } else {
                let finished = engine.end_batch(py, ticket, outcome, now)?;
                (finished.discards, None)
            };
            let discards = discards.into_iter().map(|discard| {
                let discard = Discard { discard };
                self.on_discard.call1((discard,)).map(drop)
            });
            // All of them are called, and the first error is raised.
            discards.fold(told, Result::and)?;
            next = match taken {
                Some(next) => next,
                None => engine.next(py, now)?,
            };
        }
    }

    fn now(&self) -> PyResult<i64> {
        arguments::now(&self.clock.call0()?)
    }

    /// What became of the batch, and what is to be raised when it is finished.
    fn outcome(&self, py: Python<'_>, batch: Batch) -> (Outcome, PyResult<()>) {
        match self.invoke(py, batch) {
            Ok(outcome) => (outcome, Ok(())),
            Err(error) if error.is_instance_of::<PyKeyboardInterrupt>(py) => {
                // It did not run to its end and spends nothing.
                let outcome = streamcore::Outcome::Throttled;
                let returned = None;
                (Outcome { outcome, returned }, Err(error))
            }
            Err(error) => (Outcome::unhandled(), self.tell(py, error)),
        }
    }

    fn invoke(&self, py: Python<'_>, batch: Batch) -> PyResult<Outcome> {
        static INTERPRET: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let value = self.handler.call1((batch.event(py)?,))?;
        if value.is_none() && batch.batch.window().is_none() {
            return Ok(SUCCESS);
        }
        let interpret = INTERPRET.import(py, "streamcore._interpret", "interpret_returned")?;
        let outcome = interpret.call1((batch, value))?;
        Ok(outcome.cast::<Outcome>()?.get().clone())
    }

    fn tell(&self, py: Python<'_>, error: PyErr) -> PyResult<()> {
        if let Some(on_error) = self.on_error {
            on_error.call1((error.into_value(py),))?;
        } else {
            error.write_unraisable(py, Some(self.handler));
        }
        Ok(())
    }
}
