//! Tells the compiler what the interpreter is: `Py_GIL_DISABLED` for one without its lock.

fn main() {
    pyo3_build_config::use_pyo3_cfgs();
}
