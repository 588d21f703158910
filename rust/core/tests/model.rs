//! Properties of the engine against slow and obvious models, through its public calls.
