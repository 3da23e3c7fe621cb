//! The keys of `job.toml` that say what the input is.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::chunk::{FIXED_LIMIT, RecordKind};
use crate::spec::{Located, Section};

/// The most records that a job may skip: so many are listed in its report, and each costs some
/// fifteen fresh instances to find.
pub const BAD_RECORDS_LIMIT: u32 = 1_000;

/// How the input's files are compressed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    /// A file is what both its name and its first bytes say.
    #[default]
    ByName,
    /// All are gzip, whatever their names.
    Gzip,
    /// All are zstd, whatever their names.
    Zstd,
    /// None is, whatever their names.
    None,
}

/// What the input is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::mr) struct Form {
    pub(in crate::mr) record: RecordKind,
    pub(in crate::mr) compression: Compression,
    pub(in crate::mr) max_bad_records: u32,
}

/// Takes the keys `record`, `compression` and `max_bad_records`.
pub(in crate::mr) fn of_section(section: &mut Section) -> Form {
    let max_bad_records = section.integer("max_bad_records", 0..=u64::from(BAD_RECORDS_LIMIT));
    Form {
        record: record(section).unwrap_or_default(),
        compression: compression(section).unwrap_or_default(),
        max_bad_records: max_bad_records.map_or(0, |most| most as u32),
    }
}

fn record(section: &mut Section) -> Option<RecordKind> {
    let Located { value, line } = section.value("record")?;
    let bytes = |bytes: u64| u32::try_from(bytes).ok().filter(|n| (1..=FIXED_LIMIT).contains(n));
    let known = match &value {
        Value::String(name) => match name.as_str() {
            "lines" | "jsonl" => Some(RecordKind::Lines),
            "paragraph" => Some(RecordKind::Paragraph),
            "csv" => Some(RecordKind::Csv),
            _ => None,
        },
        other => other.as_u64().and_then(bytes).map(RecordKind::Fixed),
    };
    if known.is_none() {
        let message = format!(
            "`record` is {value}; expected \"lines\", \"jsonl\", \"paragraph\", \"csv\" or a number of \
             bytes from 1 to {FIXED_LIMIT}"
        );
        section.error(line, message);
    }
    known
}

fn compression(section: &mut Section) -> Option<Compression> {
    let Located { value, line } = section.text("compression")?;
    match value.as_str() {
        "gzip" => Some(Compression::Gzip),
        "zstd" => Some(Compression::Zstd),
        "none" => Some(Compression::None),
        _ => {
            let message =
                format!("`compression` is \"{value}\"; expected \"gzip\", \"zstd\" or \"none\"");
            section.error(line, message);
            None
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::spec;

    fn form(text: &str) -> Result<Form, Vec<String>> {
        let text = format!("kind = \"mr\"\n{text}");
        let mut section = spec::parse(&text, spec::FILE).unwrap().remove(0).rest;
        let form = of_section(&mut section);
        let errors: Vec<_> = section.finish().iter().map(ToString::to_string).collect();
        if errors.is_empty() { Ok(form) } else { Err(errors) }
    }

    #[test]
    fn what_is_not_said_is_lines_by_name_without_bad_ones() {
        assert_eq!(form(""), Ok(Form::default()));
        let jsonl = "record = \"jsonl\"\nmax_bad_records = 0\n";
        assert_eq!(form(jsonl), Ok(Form::default()));
    }

    #[test]
    fn every_form_of_input_can_be_said() {
        let said = form("record = 80\ncompression = \"zstd\"\nmax_bad_records = 7\n").unwrap();
        let record = RecordKind::Fixed(80);
        assert_eq!(said, Form { record, compression: Compression::Zstd, max_bad_records: 7 });
        assert_eq!(form("record = \"csv\"").unwrap().record, RecordKind::Csv);
        assert_eq!(form("record = \"paragraph\"").unwrap().record, RecordKind::Paragraph);
    }

    #[test]
    fn what_is_no_form_of_input_is_told_with_what_is() {
        let errors = form("record = 0\ncompression = \"bzip2\"\nmax_bad_records = 1001\n");
        let expected = [
            "job.toml:4: `max_bad_records` is 1001; expected a whole number from 0 to 1000",
            "job.toml:2: `record` is 0; expected \"lines\", \"jsonl\", \"paragraph\", \"csv\" or a \
             number of bytes from 1 to 1048576",
            "job.toml:3: `compression` is \"bzip2\"; expected \"gzip\", \"zstd\" or \"none\"",
        ];
        assert_eq!(errors.unwrap_err(), expected);
    }
}
