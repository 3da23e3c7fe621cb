//! Job directories to begin with.

use crate::kind::Template;

/// The first is what one gets who does not say.
pub(super) const TEMPLATES: &[Template] = &[];
