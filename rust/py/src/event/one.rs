//! The event of one record, filled again and again as long as nobody keeps it.
//!
//! Most handlers keep nothing of an event and change nothing in it. To free such an event and to make the next one is most of what a batch
//! of one record costs, so its dicts and its list are used again, as `zip` does with its tuple. Nobody can tell: there is no other
//! reference to any of them, they have no weak references, and they have the items in the order that a new one would have.

use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};
use streamcore::Record;

use super::{Dicts, EventShape, of_records};
use crate::objects::{has_items, list, references};

/// Records that were made under the engine's lock.
pub(crate) enum Few<'py> {
    /// One, which the [`LastEvent`] has.
    One,
    Several(Bound<'py, PyList>),
}

/// The event of one record that was made last.
#[derive(Default)]
pub(crate) struct LastEvent<'py> {
    one: Option<One<'py>>,
}

struct One<'py> {
    dicts: Arc<Dicts>,
    /// None until somebody wants it.
    event: Option<Bound<'py, PyDict>>,
    records: Bound<'py, PyList>,
    record: Bound<'py, PyDict>,
    kinesis: Bound<'py, PyDict>,
}

impl<'py> LastEvent<'py> {
    /// Makes it that of a record, under the engine's lock: only texts and numbers are let go of.
    #[inline]
    pub(super) fn fill(
        &mut self,
        py: Python<'py>,
        shape: &EventShape,
        dicts: &Arc<Dicts>,
        record: &Record<'_>,
    ) -> PyResult<()> {
        if let Some(one) = &self.one
            && Arc::ptr_eq(&one.dicts, dicts)
            && one.is_alone()
        {
            let id = shape.fill(dicts, record, shape.prefix(), &one.kinesis)?;
            return one.record.set_item(&dicts.event_id, id);
        }
        let (record, kinesis) = shape.record(py, dicts, record, shape.prefix())?;
        let records = list(py, 1, std::iter::once(record.clone()), Ok)?;
        self.one = Some(One {
            dicts: Arc::clone(dicts),
            event: None,
            records,
            record,
            kinesis,
        });
        Ok(())
    }

    /// The event, to be handed over.
    #[inline]
    pub(crate) fn event(&mut self, py: Python<'py>) -> PyResult<&Bound<'py, PyDict>> {
        let one = self.one.as_mut().expect("it was filled in");
        if one.event.is_none() {
            one.event = Some(of_records(py, one.records.clone())?);
        }
        Ok(one.event.as_ref().expect("it was made"))
    }

    /// It has been handed over, and is kept if it may be used again. Else it goes at once, as any event does.
    #[inline]
    pub(crate) fn keep(&mut self) {
        if !self.one.as_ref().is_some_and(One::is_as_made) {
            self.one = None;
        }
    }
}

impl One<'_> {
    /// Whether nobody else has a part of it.
    #[inline]
    fn is_alone(&self) -> bool {
        let event = self.event.as_ref();
        event.is_some_and(|event| references(event) == 1)
            && references(&self.records) == 2
            && references(&self.record) == 2
            && references(&self.kinesis) == 2
    }

    /// Whether, moreover, nobody has changed it.
    #[inline]
    fn is_as_made(&self) -> bool {
        let Dicts {
            event,
            record,
            kinesis,
            ..
        } = &*self.dicts;
        self.is_alone()
            && self
                .event
                .as_ref()
                .is_some_and(|own| has_items(own, event, Some(&self.records)))
            && self.records.len() == 1
            && self
                .records
                .get_item(0)
                .is_ok_and(|own| own.is(&self.record))
            && has_items(&self.record, &record.items, Some(&self.kinesis))
            && has_items(&self.kinesis, &kinesis.items, None)
    }
}
