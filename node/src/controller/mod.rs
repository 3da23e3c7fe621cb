//! Drives engines.
