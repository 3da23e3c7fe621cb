//! Settings.
/// t
pub const DEFAULT_TOML: &str = "";
