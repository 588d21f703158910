//! Properties of the engine against slow and obvious models, through its public calls. A failing case is printed and made small.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod models;
