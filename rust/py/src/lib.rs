//! Python binding of the engine: thin frozen classes; one crossing per page or batch, never per record.
//!
//! Types and docstrings stand in `python/streamcore/_streamcore.pyi`, which stubtest compares with this module.
#![deny(unsafe_code)]

mod arguments;
mod arrow;
mod batch;
mod checkpoint;
mod columns;
mod engine;
mod errors;
mod event;
mod exchange;
mod filter;
mod invoke;
mod json;
mod objects;
mod page;
mod stats;

/// The engine of streamcore.
#[pyo3::pymodule(gil_used = false)]
mod _streamcore {
    use pyo3::prelude::*;
    use pyo3::types::PyDict;

    #[pymodule_export]
    use crate::batch::{Batch, Discard, Finished, Outcome, Window};
    #[pymodule_export]
    use crate::checkpoint::Checkpoint;
    #[pymodule_export]
    use crate::columns::Columns;
    #[pymodule_export]
    use crate::engine::{Engine, Offered, Wait, Want};
    #[pymodule_export]
    use crate::exchange::exchange;
    #[pymodule_export]
    use crate::filter::FilterCriteria;
    #[pymodule_export]
    use crate::page::{ChildShard, Page};
    #[pymodule_export]
    use crate::stats::ShardStats;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        let py = module.py();
        module.add("__version__", env!("CARGO_PKG_VERSION"))?;
        let hook = PyDict::new(py);
        hook.set_item(
            "after_in_child",
            pyo3::wrap_pyfunction!(crate::engine::_forked, module)?,
        )?;
        py.import("os")?
            .call_method("register_at_fork", (), Some(&hook))?;
        Ok(())
    }
}
