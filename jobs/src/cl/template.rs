//! Job directories to begin with.

use crate::kind::Template;

/// The first is what one gets who does not say.
pub(super) const TEMPLATES: &[Template] = &[Template {
    language: "python",
    files: &[
        ("job.toml", include_str!("template/job.toml")),
        ("run.py", include_str!("template/run.py")),
        ("list", include_str!("template/list")),
    ],
    build: None,
}];
