//! `Engine.invoke_ready`: take, event, handler, answer and finish in one loop, without an object for the batch or a crossing for each
//! step. Each step is the one that `take`, `Batch.event`, `interpret` and `finish` make.

use pyo3::exceptions::PyKeyboardInterrupt;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use streamcore::{InFlight, Ticket};

use crate::arguments;
use crate::batch::{Batch, Discard, Outcome, SUCCESS};
use crate::engine::{Engine, Next};
use crate::event::{EventShape, Few, LastEvent, of_records};

/// What the event of a batch is to be made of.
enum Given<'py> {
    Records(Few<'py>),
    Failed(Box<PyErr>),
    Batch(Batch),
}

impl<'py> Given<'py> {
    /// Runs under the engine's lock, and runs no Python code: where it makes objects of Python the collector is paused.
    fn of(py: Python<'py>, in_flight: InFlight<'_>, last: &mut LastEvent<'py>) -> (Ticket, Self) {
        let ticket = in_flight.ticket();
        let shape = in_flight.attachment::<EventShape>();
        let given = match shape.and_then(|shape| shape.few_records(py, &in_flight, last)) {
            Some(Ok(records)) => Self::Records(records),
            Some(Err(error)) => Self::Failed(Box::new(error)),
            None => Self::Batch(Batch {
                batch: in_flight.batch(),
            }),
        };
        (ticket, given)
    }
}

/// What the caller is called back with.
pub(crate) struct Calls<'a, 'py> {
    pub(crate) handler: &'a Bound<'py, PyAny>,
    pub(crate) clock: &'a Bound<'py, PyAny>,
    pub(crate) on_discard: &'a Bound<'py, PyAny>,
    pub(crate) on_error: Option<&'a Bound<'py, PyAny>>,
}

/// What is to be raised when a batch is finished. It is small, since it is handed on for every batch.
type Raised = Result<(), Box<PyErr>>;

impl Calls<'_, '_> {
    pub(crate) fn invoke_ready(&self, py: Python<'_>, engine: &Engine) -> PyResult<Option<i64>> {
        self.invoke_all(py, engine).map_err(|error| *error)
    }

    fn invoke_all(&self, py: Python<'_>, engine: &Engine) -> Result<Option<i64>, Box<PyErr>> {
        let mut now = self.now()?;
        let mut succeeded = None;
        let mut last = LastEvent::default();
        loop {
            let mut discards = Vec::new();
            let given = |in_flight: InFlight<'_>| Given::of(py, in_flight, &mut last);
            let next = engine.succeed_and_next(py, succeeded, now, &mut discards, given)?;
            succeeded = None;
            let (ticket, given) = match next {
                Some(Next::Run(run)) => run,
                Some(Next::Deliver(discard)) => {
                    self.on_discard.call1((Discard { discard: *discard },))?;
                    continue;
                }
                Some(Next::Wait(at)) => return Ok(at),
                None => {
                    self.tell_all(discards, Ok(()))?;
                    continue;
                }
            };
            // Whatever is raised on the way, the batch is finished first, so that its lane never hangs, and no discard is lost.
            let (outcome, mut raised) = match self.invoke(py, engine, ticket, given, &mut last) {
                Ok(outcome) => (outcome, Ok(())),
                Err(error) => self.failed(py, error),
            };
            match self.now() {
                Ok(instant) => now = instant,
                Err(error) => raised = raised.and(Err(error.into())),
            }
            if raised.is_ok() {
                // Where handler and clock are not Python code, nothing else looks for Ctrl-C.
                raised = py.check_signals().map_err(Box::new);
            }
            if outcome.is_none() && raised.is_ok() {
                succeeded = Some(ticket);
                continue;
            }
            let outcome = outcome.as_deref().unwrap_or(&SUCCESS);
            let finished = engine.end_batch(py, ticket, outcome, now)?;
            self.tell_all(finished.discards, raised)?;
        }
    }

    #[inline]
    fn now(&self) -> PyResult<i64> {
        arguments::now(&self.clock.call0()?)
    }

    /// All discards are told, and the first error is raised.
    fn tell_all(&self, discards: Vec<streamcore::Discard>, raised: Raised) -> Raised {
        let told = discards.into_iter().map(|discard| {
            let told = self.on_discard.call1((Discard { discard },));
            told.map(drop).map_err(Box::new)
        });
        told.fold(raised, Result::and)
    }

    /// What became of a batch that failed, and what is to be raised when it is finished.
    #[cold]
    fn failed(&self, py: Python<'_>, error: Box<PyErr>) -> (Option<Box<Outcome>>, Raised) {
        if error.is_instance_of::<PyKeyboardInterrupt>(py) {
            // It did not run to its end and spends nothing.
            let outcome = Outcome {
                outcome: streamcore::Outcome::Throttled,
                returned: None,
            };
            return (Some(Box::new(outcome)), Err(error));
        }
        let raised = self.tell(py, *error).map_err(Box::new);
        (Some(Box::new(Outcome::unhandled())), raised)
    }

    /// What became of a batch; None for success.
    #[inline]
    fn invoke<'py>(
        &self,
        py: Python<'py>,
        engine: &Engine,
        ticket: Ticket,
        given: Given<'py>,
        last: &mut LastEvent<'py>,
    ) -> Result<Option<Box<Outcome>>, Box<PyErr>> {
        let mut shared = None;
        let value = match given {
            Given::Records(Few::One) => {
                let value = self.handler.call1((last.event(py)?,));
                last.keep();
                value
            }
            Given::Records(Few::Several(records)) => {
                self.handler.call1((of_records(py, records)?,))
            }
            Given::Failed(error) => Err(*error),
            Given::Batch(batch) => {
                let event = batch.event(py)?;
                shared = Some(batch);
                self.handler.call1((event,))
            }
        }?;
        let has_window = |batch: &Batch| batch.batch.window().is_some();
        if value.is_none() && !shared.as_ref().is_some_and(has_window) {
            return Ok(None);
        }
        let batch = match shared {
            Some(batch) => Some(batch),
            // Where its shard was removed meanwhile, nothing comes of the answer.
            None => engine.batch(py, ticket)?,
        };
        Ok(batch.map(|batch| interpret(batch, value)).transpose()?)
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

/// What a handler's value means for its batch.
fn interpret(batch: Batch, value: Bound<'_, PyAny>) -> PyResult<Box<Outcome>> {
    static INTERPRET: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let py = value.py();
    let interpret = INTERPRET.import(py, "streamcore._interpret", "interpret_returned")?;
    let outcome = interpret.call1((batch, value))?;
    Ok(Box::new(outcome.cast::<Outcome>()?.get().clone()))
}
