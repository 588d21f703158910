//! The Lambda event of a batch as Python objects.

mod one;

use std::sync::Arc;

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyList, PyString};
use streamcore::{Format, InFlight, MappingIdentity, Record, RecordBytes};

pub(crate) use self::one::{Few, LastEvent};
use crate::errors::usage;
use crate::json;
use crate::objects::{
    Ascii, CollectorPause, Item, Value, decoded, fetch_ahead, float, int, join, list, made, text,
};

/// Events of at least so many records are built with the garbage collector paused: the two dicts of each record would call it, at its
/// default of 700 new objects, again and again, only to find that all that is there is in use.
const COLLECTED_RECORDS: usize = 256;

/// The records of so many, and of so many bytes, at the most are made under the engine's lock: what a batch costs beside its records is
/// little in larger ones, and the lock is not to be held for long.
const FEW_RECORDS: usize = 10;
const FEW_BYTES: usize = 64 << 10;

/// Without Python's lock neither counts of references nor whether the collector is on say what they have to.
const LOCKLESS: bool = cfg!(Py_GIL_DISABLED);

/// Data of a page of many megabytes are far from the processor when an event is made of them. A record's are fetched so many records before
/// they are copied.
const FETCHED_AHEAD: usize = 2;

/// What the events of a shard are made of.
pub(crate) struct EventShape {
    shard_id: String,
    /// What an `eventID` begins with.
    id_prefix: String,
    identity: MappingIdentity,
    dicts: PyOnceLock<Arc<Dicts>>,
}

/// A dict as it is for every record of a shard, to be copied and filled in.
struct Template {
    dict: Py<PyDict>,
    items: Vec<Item>,
}

impl Template {
    fn new(py: Python<'_>, items: Vec<Item>) -> PyResult<Self> {
        let dict = PyDict::new(py);
        for (key, value) in &items {
            match value {
                Value::Always(value) => dict.set_item(key, value)?,
                Value::Plain | Value::Inner => dict.set_item(key, py.None())?,
            }
        }
        let dict = dict.unbind();
        Ok(Self { dict, items })
    }
}

/// What a record of the event is copied from, and the keys under which it is filled in.
///
/// A copy of a dict keeps its keys and their order, so each record costs two copies and six assignments.
struct Dicts {
    event: Vec<Item>,
    record: Template,
    kinesis: Template,
    inner: Py<PyString>,
    event_id: Py<PyString>,
    partition_key: Py<PyString>,
    sequence_number: Py<PyString>,
    data: Py<PyString>,
    arrival: Py<PyString>,
}

impl Dicts {
    fn new(py: Python<'_>, identity: &MappingIdentity) -> PyResult<Self> {
        let name = |name: &Bound<'_, PyString>| name.clone().unbind();
        let always = |value: &Bound<'_, PyString>| Value::Always(value.clone().into_any().unbind());
        let text = |text: &str| always(&PyString::new(py, text));
        let plain = |key: &Py<PyString>| (key.clone_ref(py), Value::Plain);
        let inner = name(intern!(py, "kinesis"));
        let event_id = name(intern!(py, "eventID"));
        let partition_key = name(intern!(py, "partitionKey"));
        let sequence_number = name(intern!(py, "sequenceNumber"));
        let data = name(intern!(py, "data"));
        let arrival = name(intern!(py, "approximateArrivalTimestamp"));
        let version = always(intern!(py, "1.0"));
        let kinesis = vec![
            (name(intern!(py, "kinesisSchemaVersion")), version),
            plain(&partition_key),
            plain(&sequence_number),
            plain(&data),
            plain(&arrival),
        ];
        let source = always(intern!(py, "aws:kinesis"));
        let version = always(intern!(py, "1.0"));
        let event_name = always(intern!(py, "aws:kinesis:record"));
        let role = text(&identity.execution_role_arn);
        let region = text(&identity.aws_region);
        let arn = text(&identity.event_source_arn);
        let record = vec![
            (inner.clone_ref(py), Value::Inner),
            (name(intern!(py, "eventSource")), source),
            (name(intern!(py, "eventVersion")), version),
            plain(&event_id),
            (name(intern!(py, "eventName")), event_name),
            (name(intern!(py, "invokeIdentityArn")), role),
            (name(intern!(py, "awsRegion")), region),
            (name(intern!(py, "eventSourceARN")), arn),
        ];
        Ok(Self {
            event: vec![(name(intern!(py, "Records")), Value::Inner)],
            record: Template::new(py, record)?,
            kinesis: Template::new(py, kinesis)?,
            inner,
            event_id,
            partition_key,
            sequence_number,
            data,
            arrival,
        })
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
        let _pause = (batch.len() >= COLLECTED_RECORDS).then(|| CollectorPause::begin(py));
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
            .get_or_try_init(py, || Dicts::new(py, &self.identity).map(Arc::new))?;
        let records = batch.records();
        let later = records.iter().skip(FETCHED_AHEAD);
        let records = self.records(py, dicts, records.len(), records.iter(), later)?;
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
        last: &mut LastEvent<'py>,
    ) -> Option<PyResult<Few<'py>>> {
        let dicts = self.dicts.get(py)?;
        let few = batch.len() <= FEW_RECORDS && batch.bytes() <= FEW_BYTES;
        if LOCKLESS || !few || batch.has_window() || batch.config().format != Format::Kinesis {
            return None;
        }
        // What the lane has next is read soon too, and is far away now.
        if let Some(next) = batch.behind() {
            fetch_ahead(next.as_bytes().data_base64);
        }
        let _pause = CollectorPause::begin(py);
        if batch.len() > 1 {
            let later = batch.records().skip(FETCHED_AHEAD);
            let records = self.records(py, dicts, batch.len(), batch.records(), later);
            return Some(records.map(Few::Several));
        }
        let record = batch.records().next()?;
        Some(last.fill(py, self, dicts, &record).map(|()| Few::One))
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
        let prefix = self.prefix();
        list(py, length, records, |record| {
            if let Some(later) = later.next() {
                fetch_ahead(later.as_bytes().data_base64);
            }
            let (whole, _) = self.record(py, dicts, &record, prefix)?;
            Ok(whole)
        })
    }

    /// A record of the event, and the dict in it.
    #[inline]
    fn record<'py>(
        &self,
        py: Python<'py>,
        dicts: &Dicts,
        record: &Record<'_>,
        prefix: Option<Ascii<'_>>,
    ) -> PyResult<(Bound<'py, PyDict>, Bound<'py, PyDict>)> {
        let kinesis = dicts.kinesis.dict.bind(py).copy()?;
        let id = self.fill(dicts, record, prefix, &kinesis)?;
        let whole = dicts.record.dict.bind(py).copy()?;
        whole.set_item(&dicts.inner, &kinesis)?;
        whole.set_item(&dicts.event_id, id)?;
        Ok((whole, kinesis))
    }

    /// The prefix of an `eventID`, where it is ASCII.
    fn prefix(&self) -> Option<Ascii<'_>> {
        Ascii::of(self.id_prefix.as_bytes())
    }

    /// Fills in what is another one for each record, and gives its `eventID`.
    #[inline]
    fn fill<'py>(
        &self,
        dicts: &Dicts,
        record: &Record<'_>,
        prefix: Option<Ascii<'_>>,
        kinesis: &Bound<'py, PyDict>,
    ) -> PyResult<Bound<'py, PyString>> {
        let py = kinesis.py();
        let RecordBytes {
            key_json,
            sequence: number,
            data_base64,
        } = record.as_bytes();
        let key = if key_json.contains(&b'\\') {
            decoded(py, record.key().as_bytes())
        } else {
            text(py, key_json)
        };
        kinesis.set_item(&dicts.partition_key, made(py, key)?)?;
        let (sequence, id) = if let (Some(prefix), Some(number)) = (prefix, Ascii::of(number)) {
            (join(py, [number]), join(py, [prefix, number]))
        } else {
            let id = [self.id_prefix.as_bytes(), number].concat();
            (text(py, number), text(py, &id))
        };
        kinesis.set_item(&dicts.sequence_number, made(py, sequence)?)?;
        kinesis.set_item(&dicts.data, made(py, text(py, data_base64))?)?;
        kinesis.set_item(&dicts.arrival, made(py, seconds(py, record))?)?;
        made(py, id)
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
fn seconds<'py>(py: Python<'py>, record: &Record<'_>) -> Option<Bound<'py, PyAny>> {
    let ms = record.arrival_ms();
    if ms % 1000 == 0 {
        int(py, ms / 1000)
    } else {
        // Both are exact: instants of the page form are below 2^53 ms, and the quotient is rounded once.
        #[expect(clippy::cast_precision_loss, reason = "instants are below 2^53")]
        float(py, ms as f64 / 1000.0)
    }
}
