//! The node's directory.
