//! The one place that decides how an answer looks: for people, as JSON, or bare for scripts.
//!
//! Answers go to stdout, everything else to stderr. A command makes an [`Answer`] and puts it
//! here; it never asks which form was chosen.

use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal as _, Write};
use std::time::Duration;

use comfy_table::{ContentArrangement, Table, presets};
use miette::{Diagnostic, GraphicalReportHandler, GraphicalTheme};
use serde::Serialize;

use super::error::CliError;
use crate::problem::{ErrorBody, Problem};

/// What a command says.
pub(super) trait Answer: Serialize {
    /// For people.
    ///
    /// # Errors
    /// What `to` fails with.
    fn text(&self, to: &mut dyn Write) -> io::Result<()>;

    /// For scripts, under `--quiet`: what one would pick out of the text, a line each. Nothing by
    /// default: the exit code says it all.
    ///
    /// # Errors
    /// What `to` fails with.
    fn quiet(&self, _to: &mut dyn Write) -> io::Result<()> {
        Ok(())
    }
}

/// How answers look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// Text and tables.
    Text,
    /// One JSON value.
    Json,
    /// Only what a script would pick out.
    Quiet,
}

/// Where answers, notes and errors go.
#[derive(Debug, Clone, Copy)]
pub(super) struct Output {
    form: Form,
}

impl Output {
    pub(super) fn new(form: Form) -> Self {
        Output { form }
    }

    /// Prints a command's answer.
    ///
    /// # Errors
    /// When stdout is closed or failing.
    pub(super) fn put(self, answer: &impl Answer) -> Result<(), CliError> {
        let mut text = Vec::new();
        let written = match self.form {
            Form::Text => answer.text(&mut text),
            Form::Quiet => answer.quiet(&mut text),
            Form::Json => serde_json::to_writer_pretty(&mut text, answer)
                .map_err(io::Error::from)
                .and_then(|()| writeln!(text)),
        };
        written.expect("a vector takes every byte, and answers have string keys only");
        write_stdout(&text)
    }

    /// Tells people something beside the answer.
    pub(super) fn note(self, text: impl AsRef<str>) {
        if self.form == Form::Text {
            let mut stderr = io::stderr().lock();
            // A note that nobody can read is no reason to fail.
            let _ = writeln!(stderr, "{}", text.as_ref());
        }
    }

    /// Whether to draw progress: only for people, only on a terminal.
    pub(super) fn shows_progress(self) -> bool {
        self.form == Form::Text && io::stderr().is_terminal()
    }

    /// Prints an error: what happened, why, what to do.
    pub(super) fn error(self, error: &dyn Diagnostic) {
        let text = match self.form {
            Form::Json => serde_json::to_string_pretty(&ErrorBody { error: Problem::of(error) })
                .expect("an error of strings is JSON"),
            Form::Text | Form::Quiet => report(error, io::stderr().is_terminal()),
        };
        let _ = writeln!(io::stderr().lock(), "{}", text.trim_end());
    }
}

/// An error as `miette` draws it; without colours and box drawing when no terminal shows it.
fn report(error: &dyn Diagnostic, terminal: bool) -> String {
    let handler = if terminal {
        GraphicalReportHandler::new()
    } else {
        GraphicalReportHandler::new_themed(GraphicalTheme::none()).with_width(PLAIN_WIDTH)
    };
    let mut text = String::new();
    match handler.render_report(&mut text, &WithDetails(error)) {
        Ok(()) => text,
        Err(_) => error.to_string(),
    }
}

/// An error whose details are lines of its message: `miette` would draw each as an error of its own.
#[derive(Debug)]
struct WithDetails<'a>(&'a dyn Diagnostic);

impl fmt::Display for WithDetails<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Harmless(self.0))?;
        let details = self.0.related().into_iter().flatten();
        details.map(Harmless).try_for_each(|detail| write!(f, "\n- {detail}"))
    }
}

/// Words that may be a guest's or a peer's: what would steer a terminal is escaped.
struct Harmless<T>(T);

impl<T: fmt::Display> fmt::Display for Harmless<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.to_string().chars().try_for_each(|c| match c {
            '\n' | '\t' => f.write_char(c),
            c if c.is_control() => write!(f, "{}", c.escape_default()),
            c => f.write_char(c),
        })
    }
}

impl std::error::Error for WithDetails<'_> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}

impl Diagnostic for WithDetails<'_> {
    fn code<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.0.code()
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.0.help()
    }
}

/// Columns of an error that no terminal shows: no wrapping, so that a script can search in it.
const PLAIN_WIDTH: usize = 10_000;

/// Writes bytes to stdout, as they are.
///
/// # Errors
/// When stdout is closed or failing.
pub(super) fn write_stdout(bytes: &[u8]) -> Result<(), CliError> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => CliError::StdoutClosed,
        _ => CliError::Stdout(error),
    })
}

/// A table with these headings, as wide as it needs to be.
pub(super) fn table(headings: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(headings);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
}

/// Writes a table without the blanks at the ends of its lines.
///
/// # Errors
/// What `to` fails with.
pub(super) fn put_table(to: &mut dyn Write, table: &Table) -> io::Result<()> {
    table.lines().try_for_each(|line| writeln!(to, "{}", line.trim_end()))
}

/// A line that a stranger wrote, for a terminal: what would steer it is escaped, tabs and quotes are not.
pub(super) fn harmless(line: &str) -> String {
    const PLAIN: [char; 3] = ['\t', '\'', '"'];
    let mut shown = String::with_capacity(line.len());
    for part in line.split_inclusive(PLAIN) {
        let text = part.trim_end_matches(PLAIN);
        shown.extend(text.escape_debug());
        shown.push_str(&part[text.len()..]);
    }
    shown
}

/// Bytes for people: `17 B`, `1.5 MiB`.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut value = bytes as f64 / 1024.0;
    if value < 1.0 {
        return format!("{bytes} B");
    }
    let mut unit = 0;
    // What would be written as 1024.0 belongs to the next unit.
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// A time for people: `0.42 s`, `3m 12s`, `2d 3h`.
pub(super) fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    if seconds < 60 {
        return format!("{:.2} s", time.as_secs_f64());
    }
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours) {
        (0, 0) => format!("{minutes}m {}s", seconds % 60),
        (0, _) => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::Detail;

    #[test]
    fn sizes_read_well() {
        let cases = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            ((1 << 20) - 1, "1.0 MiB"),
            (100 << 20, "100.0 MiB"),
            (u64::MAX, "16.0 EiB"),
        ];
        for (bytes, text) in cases {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn spans_read_well() {
        let cases = [(0, "0.00 s"), (59, "59.00 s"), (192, "3m 12s"), (7_260, "2h 1m")];
        for (seconds, text) in cases {
            assert_eq!(span(Duration::from_secs(seconds)), text);
        }
        assert_eq!(span(Duration::from_secs(2 * 86_400 + 3 * 3_600)), "2d 3h");
    }

    #[test]
    fn an_error_off_a_terminal_is_plain_and_says_code_cause_help_and_details() {
        let jobs = vec![Detail("job abc has 2 attempts here".into())];
        let text = report(&CliError::WorksForOthers { jobs }, false);
        for part in ["IPDC-1621", "works for others", "--yes", "- job abc has 2 attempts here"] {
            assert!(text.contains(part), "{part} is missing in:\n{text}");
        }
        assert!(!text.contains('\u{1b}'), "{text:?}");
    }

    #[test]
    fn words_of_others_in_an_error_do_not_steer_the_terminal() {
        let jobs = vec![Detail("a guest's \u{1b}[2J\u{9b}31m\r words\n".into())];
        let text = report(&CliError::WorksForOthers { jobs }, false);
        assert!(text.contains(r"- a guest's \u{1b}[2J\u{9b}31m\r words"), "{text:?}");
        assert!(!text.contains(['\u{1b}', '\u{9b}', '\r']), "{text:?}");
    }

    #[test]
    fn a_table_has_no_trailing_blanks() {
        let mut table = table(&["A", "B"]);
        table.add_row(["long cell", "x"]);
        table.add_row(["y", ""]);
        let mut text = Vec::new();
        put_table(&mut text, &table).expect("a vector takes every byte");
        assert_eq!(String::from_utf8_lossy(&text), "A          B\nlong cell  x\ny\n");
    }
}
