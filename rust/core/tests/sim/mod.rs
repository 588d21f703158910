//! The parts of the simulation: chance, options, the stream, the reference and the world that joins them.

pub(crate) mod log;
pub(crate) mod options;
pub(crate) mod reach;
pub(crate) mod reference;
pub(crate) mod rng;
pub(crate) mod world;
