//! Job directories to begin with, one a language: the examples' word count, and what builds it.
//!
//! A job in Rust carries a copy of the guest crate: it is not published, and a job must build
//! where there is neither this repository nor a network.

use crate::kind::Template;

/// Text to count words in.
const TEXT: (&str, &str) = ("text", include_str!("template/text"));
const README: (&str, &str) = ("README.md", include_str!("template/README.md"));
const JOB: (&str, &str) = ("job.toml", include_str!("template/job.toml"));

/// What builds a job's code, in each that needs it.
const BUILD: &str = "build.sh";

/// The first is what one gets who does not say.
pub(super) const TEMPLATES: &[Template] = &[
    Template {
        language: "rust",
        files: &[
            JOB,
            README,
            TEXT,
            (BUILD, include_str!("template/rust-build.sh")),
            ("Cargo.toml", include_str!("template/rust-Cargo.toml")),
            ("src/lib.rs", include_str!("../../../examples/wordcount/src/lib.rs")),
            ("ipdc-guest/Cargo.toml", include_str!("template/guest-Cargo.toml")),
            ("ipdc-guest/src/lib.rs", include_str!("../../../guest/src/lib.rs")),
            ("ipdc-guest/src/fetch.rs", include_str!("../../../guest/src/fetch.rs")),
            ("ipdc-guest/src/frame.rs", include_str!("../../../guest/src/frame.rs")),
            ("ipdc-guest/src/json.rs", include_str!("../../../guest/src/json.rs")),
            ("ipdc-guest/src/side.rs", include_str!("../../../guest/src/side.rs")),
            ("ipdc-guest/src/words.rs", include_str!("../../../guest/src/words.rs")),
        ],
        build: Some(BUILD),
    },
    Template {
        language: "c",
        files: &[
            JOB,
            README,
            TEXT,
            (BUILD, include_str!("template/c-build.sh")),
            ("map.c", include_str!("../../../examples/wordcount-c/map.c")),
            ("ipdc.h", include_str!("../../../guest/c/ipdc.h")),
        ],
        build: Some(BUILD),
    },
    Template {
        language: "as",
        files: &[
            JOB,
            README,
            TEXT,
            (BUILD, include_str!("template/as-build.sh")),
            ("map.ts", include_str!("../../../examples/wordcount-as/map.ts")),
            ("ipdc.ts", include_str!("../../../guest/as/ipdc.ts")),
        ],
        build: Some(BUILD),
    },
    Template {
        language: "wat",
        files: &[
            ("job.toml", include_str!("template/wat-job.toml")),
            README,
            TEXT,
            ("map.wat", include_str!("../../../examples/line-lengths/map.wat")),
        ],
        build: None,
    },
    Template {
        language: "wasi",
        files: &[
            JOB,
            README,
            TEXT,
            (BUILD, include_str!("template/wasi-build.sh")),
            ("Cargo.toml", include_str!("template/wasi-Cargo.toml")),
            ("src/main.rs", include_str!("../../../examples/wordcount-wasi/src/main.rs")),
        ],
        build: Some(BUILD),
    },
    Template {
        language: "python",
        files: &[
            ("job.toml", include_str!("template/python-job.toml")),
            README,
            TEXT,
            ("map.py", include_str!("../../../examples/wordcount-py/map.py")),
        ],
        build: None,
    },
];

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    use super::*;

    #[test]
    fn the_template_in_rust_has_the_whole_guest_crate() {
        let crate_of_guests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../guest/src");
        let sources: BTreeSet<_> = fs::read_dir(crate_of_guests)
            .unwrap()
            .map(|entry| format!("ipdc-guest/src/{}", entry.unwrap().file_name().display()))
            .collect();
        let rust = TEMPLATES.iter().find(|template| template.language == "rust").unwrap();
        let carried = rust.files.iter().map(|(path, _)| (*path).to_owned());
        let carried = carried.filter(|path| path.starts_with("ipdc-guest/src/")).collect();
        assert_eq!(sources, carried);
    }
}
