//! Scenarios as text, with what the engine does below every command.
//!
//! A file for each subject stands in `tests/data/scenarios`; `scenario` tells how they are written. Every case is also played with each
//! page cut in two and with records of other keys between its own, and after every command the invariants are verified and a restart
//! is tried under four factors. `STREAMCORE_BLESS=1` writes the expected text anew; read the difference before it is committed.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod scenario;

macro_rules! scenarios {
    ($($name:ident)*) => {$(
        #[test]
        fn $name() {
            scenario::check(concat!(stringify!($name), ".txt"));
        }
    )*};
}

scenarios! {
    dispatch batching retry bisect partial age retention throttle too_large lifecycle restart discards duplicates windows
}
