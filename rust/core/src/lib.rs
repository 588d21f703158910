//! streamcore core
