//! Text tables: a scenario is played against the engine, and what it did is compared with the text that stands below it.
//!
//! Each file of `tests/data` named below holds cases of one subject (dispatch, batching, retry, bisect, partial answers, age, retention,
//! throttles, life cycle, restart, discards, duplicates). `STREAMCORE_BLESS=1` writes the text anew.
