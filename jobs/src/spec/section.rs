//! A table of `job.toml` while it is taken apart: it gives each key once, checked, and reports what nobody asked for,
//! each with its line.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;

use serde_json::Value;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Located, SpecError};

/// The most texts of a list.
pub const LIST_LIMIT: usize = 1_024;

/// A table of `job.toml` while it is taken apart: each key that is asked for is taken out, and
/// [`Section::finish`] reports those that nobody asked for.
#[derive(Debug, Clone)]
pub struct Section {
    /// Its name; empty for the top.
    name: String,
    file: String,
    entries: Vec<(String, Located<Value>)>,
    /// Lines of the tables and arrays inside, by the place of their entry's key.
    lines: BTreeMap<String, Vec<(String, usize)>>,
    asked: Vec<&'static str>,
    errors: Vec<SpecError>,
}

impl Section {
    /// The table, as it stands in `text`.
    pub(super) fn of_table(
        name: String,
        text: &str,
        file: &str,
        table: &DeTable<'_>,
        errors: &mut Vec<SpecError>,
    ) -> Self {
        let mut entries = Vec::new();
        let mut lines = BTreeMap::new();
        for (key, value) in table {
            let line = line_of(text, key.span().start);
            if let Some(inner) = value.get_ref().as_table() {
                let inner = inner
                    .keys()
                    .map(|key| (key.get_ref().to_string(), line_of(text, key.span().start)));
                lines.insert(key.get_ref().to_string(), inner.collect());
            }
            match json(value) {
                Ok(value) => entries.push((key.get_ref().to_string(), Located { value, line })),
                Err((at, message)) => errors.push(SpecError {
                    file: file.to_owned(),
                    line: Some(line_of(text, at)),
                    message,
                }),
            }
        }
        Section {
            name,
            file: file.to_owned(),
            entries,
            lines,
            asked: Vec::new(),
            errors: Vec::new(),
        }
    }

    /// Notes an error at `line`.
    pub fn error(&mut self, line: usize, message: impl Into<String>) {
        let (file, message) = (self.file.clone(), message.into());
        self.errors.push(SpecError { file, line: Some(line), message });
    }

    /// Notes what is wrong with a table inside.
    pub fn append(&mut self, errors: Vec<SpecError>) {
        self.errors.extend(errors);
    }

    /// A value of any type, if the key is there.
    pub fn value(&mut self, key: &'static str) -> Option<Located<Value>> {
        self.take(key)
    }

    /// A text, if the key is there.
    pub fn text(&mut self, key: &'static str) -> Option<Located<String>> {
        let Located { value, line } = self.take(key)?;
        match value {
            Value::String(value) => Some(Located { value, line }),
            other => self.unfit(key, line, &other, "a text in quotes"),
        }
    }

    /// A text that must be there.
    pub fn required_text(&mut self, key: &'static str) -> Option<Located<String>> {
        if !self.has(key) {
            let (file, message) = (self.file.clone(), format!("`{}` is missing", self.path(key)));
            self.asked.push(key);
            self.errors.push(SpecError { file, line: None, message });
            return None;
        }
        self.text(key)
    }

    /// The line of a key that was not taken yet.
    #[must_use]
    pub fn line(&self, key: &str) -> Option<usize> {
        self.entries.iter().find(|(known, _)| known == key).map(|(_, located)| located.line)
    }

    /// A whole number in `range`, if the key is there.
    pub fn integer(&mut self, key: &'static str, range: RangeInclusive<u64>) -> Option<u64> {
        let Located { value, line } = self.take(key)?;
        match value.as_u64() {
            Some(number) if range.contains(&number) => Some(number),
            _ => {
                let (least, most) = range.into_inner();
                self.unfit(key, line, &value, &format!("a whole number from {least} to {most}"))
            }
        }
    }

    /// One of `options`, by its name, if the key is there.
    pub fn choice<T: Copy>(&mut self, key: &'static str, options: &[(&str, T)]) -> Option<T> {
        let Located { value, line } = self.take(key)?;
        match options.iter().find(|(name, _)| value == *name) {
            Some((_, option)) => Some(*option),
            None => {
                let names: Vec<_> = options.iter().map(|(name, _)| *name).collect();
                self.unfit(key, line, &value, &format!("one of {}", names.join(", ")))
            }
        }
    }

    /// True or false, if the key is there.
    pub fn truth(&mut self, key: &'static str) -> Option<bool> {
        let Located { value, line } = self.take(key)?;
        match value {
            Value::Bool(truth) => Some(truth),
            other => self.unfit(key, line, &other, "true or false"),
        }
    }

    /// A size or a time in `range`, if the key is there.
    pub(crate) fn measured(
        &mut self,
        key: &'static str,
        unit: Unit,
        range: RangeInclusive<u64>,
    ) -> Option<u64> {
        let Located { value, line } = self.take(key)?;
        let number = match &value {
            Value::String(text) => unit.parse(text),
            _ => None,
        };
        match number {
            Some(number) if range.contains(&number) => Some(number),
            Some(_) => {
                let (least, most) = (unit.written(*range.start()), unit.written(*range.end()));
                self.unfit(key, line, &value, &format!("{least} to {most}"))
            }
            None => self.unfit(key, line, &value, unit.expected()),
        }
    }

    /// A table, if the key is there.
    pub fn section(&mut self, key: &'static str) -> Option<Section> {
        let Located { value, line } = self.take(key)?;
        let Value::Object(map) = value else {
            return self.unfit(key, line, &value, &format!("a table, `[{}]`", self.path(key)));
        };
        let lines = self.lines.remove(key).unwrap_or_default();
        Some(self.inner(key, map, line, &lines))
    }

    /// The table `map` under `key`, whose keys stand on these lines, those that are not known on `line`.
    pub(super) fn inner(
        &self,
        key: &str,
        map: serde_json::Map<String, Value>,
        line: usize,
        lines: &[(String, usize)],
    ) -> Section {
        let line_of = |key: &str| {
            lines.iter().find(|(known, _)| known == key).map_or(line, |(_, line)| *line)
        };
        let entries = map
            .into_iter()
            .map(|(key, value)| {
                let line = line_of(&key);
                (key, Located { value, line })
            })
            .collect();
        Section {
            name: self.path(key),
            file: self.file.clone(),
            entries,
            lines: BTreeMap::new(),
            asked: Vec::new(),
            errors: Vec::new(),
        }
    }

    /// What is wrong with this table: all noted errors, and the keys that nobody asked for.
    #[must_use]
    pub fn finish(mut self) -> Vec<SpecError> {
        for (key, Located { line, .. }) in self.take_all() {
            let message =
                format!("unknown key `{}`{}", self.path(&key), instead(&key, &self.asked));
            self.error(line, message);
        }
        self.errors
    }

    /// A list of texts as what they stand for; empty when the key is not there.
    pub fn list<T>(&mut self, key: &'static str) -> Vec<T>
    where
        T: TryFrom<String>,
        T::Error: fmt::Display,
    {
        let Some(Located { value, line }) = self.take(key) else { return Vec::new() };
        let texts = value.as_array().filter(|texts| texts.len() <= LIST_LIMIT);
        let texts = texts.and_then(|texts| {
            texts.iter().map(|text| text.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>()
        });
        let Some(texts) = texts else {
            let expected = format!("a list of at most {LIST_LIMIT} texts");
            self.error(line, format!("`{}` is {value}; expected {expected}", self.path(key)));
            return Vec::new();
        };
        let texts = texts.into_iter().map(|value| Located { value, line });
        texts.filter_map(|text| self.checked(key, text)).collect()
    }

    /// A text as what it stands for.
    pub fn checked<T>(&mut self, key: &str, text: Located<String>) -> Option<T>
    where
        T: TryFrom<String>,
        T::Error: fmt::Display,
    {
        let Located { value, line } = text;
        let shown = Value::from(value.as_str());
        let checked = T::try_from(value);
        let path = self.path(key);
        checked.map_err(|error| self.error(line, format!("`{path}` has {shown}: {error}"))).ok()
    }

    /// All that is left, as it is.
    pub(super) fn into_map(self) -> serde_json::Map<String, Value> {
        self.entries.into_iter().map(|(key, located)| (key, located.value)).collect()
    }

    /// All that is left, each of which must be a text.
    pub(super) fn all_texts(&mut self) -> BTreeMap<String, Located<String>> {
        let mut texts = BTreeMap::new();
        for (key, Located { value, line }) in self.take_all() {
            match value {
                Value::String(value) => {
                    texts.insert(key, Located { value, line });
                }
                other => {
                    let _: Option<()> = self.unfit(&key, line, &other, "a path in quotes");
                }
            }
        }
        texts
    }

    fn has(&self, key: &str) -> bool {
        self.entries.iter().any(|(known, _)| known == key)
    }

    /// Every key that is left, as it is.
    pub(super) fn take_all(&mut self) -> Vec<(String, Located<Value>)> {
        std::mem::take(&mut self.entries)
    }

    /// What is wrong so far.
    pub(super) fn take_errors(&mut self) -> Vec<SpecError> {
        std::mem::take(&mut self.errors)
    }

    /// Says that `key` is one of this table's, whoever reads it.
    pub(super) fn knows(&mut self, key: &'static str) {
        self.asked.push(key);
    }

    /// The file that it stands in.
    pub(super) fn file(&self) -> &str {
        &self.file
    }

    /// The value of a key, which is then no longer there.
    pub(super) fn take(&mut self, key: &'static str) -> Option<Located<Value>> {
        self.asked.push(key);
        let at = self.entries.iter().position(|(known, _)| known == key)?;
        Some(self.entries.remove(at).1)
    }

    /// The key as a reader of the file would name it.
    pub(super) fn path(&self, key: &str) -> String {
        if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) }
    }

    /// Notes that a value is not as `expected`.
    pub(crate) fn unfit<T>(
        &mut self,
        key: &str,
        line: usize,
        value: &Value,
        expected: &str,
    ) -> Option<T> {
        let message = format!("`{}` is {value}; expected {expected}", self.path(key));
        self.error(line, message);
        None
    }
}

/// `; did you mean …?`, or what there is.
pub(super) fn instead(word: &str, known: &[&str]) -> String {
    /// Two of a dozen letters wrong is a slip; a third of them is another word.
    const ALIKE: f64 = 0.7;
    let likeness = |name: &str| strsim::jaro_winkler(word, name);
    let nearest = known.iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    match nearest {
        Some(name) if likeness(name) >= ALIKE => format!("; did you mean `{name}`?"),
        _ => format!("; expected one of {}", known.join(", ")),
    }
}

/// What a text with a unit measures.
#[derive(Clone, Copy)]
pub(crate) enum Unit {
    Bytes,
    Milliseconds,
}

impl Unit {
    /// Names and what they are worth, the largest first.
    fn names(self) -> &'static [(&'static str, u64)] {
        match self {
            Unit::Bytes => {
                &[("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)]
            }
            Unit::Milliseconds => &[("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)],
        }
    }

    fn expected(self) -> &'static str {
        match self {
            Unit::Bytes => "a size such as \"256MiB\" (B, KiB, MiB, GiB, TiB)",
            Unit::Milliseconds => "a time such as \"10m\" (ms, s, m, h)",
        }
    }

    fn parse(self, text: &str) -> Option<u64> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let (_, worth) = self.names().iter().find(|(name, _)| *name == unit.trim_start())?;
        number.parse::<u64>().ok()?.checked_mul(*worth)
    }

    fn written(self, number: u64) -> String {
        let fits = |(_, worth): &&(&str, u64)| number.is_multiple_of(*worth);
        let (name, worth) = self.names().iter().find(fits).expect("the last unit is worth one");
        format!("{}{name}", number / worth)
    }
}

/// The line that the byte at `offset` stands on, from 1.
pub(super) fn line_of(text: &str, offset: usize) -> usize {
    1 + text.as_bytes().iter().take(offset).filter(|&&byte| byte == b'\n').count()
}

/// A TOML value as JSON; else where it has none, and why.
fn json(value: &Spanned<DeValue<'_>>) -> Result<Value, (usize, String)> {
    let unfit = |message: &str| (value.span().start, message.to_owned());
    Ok(match value.get_ref() {
        DeValue::String(text) => Value::String(text.to_string()),
        DeValue::Integer(number) => {
            let parsed = i64::from_str_radix(number.as_str(), number.radix());
            parsed.map_err(|_| unfit("a whole number must fit 64 bits"))?.into()
        }
        DeValue::Float(number) => {
            let parsed = number.as_str().parse::<f64>().ok();
            let finite = parsed.and_then(serde_json::Number::from_f64);
            Value::Number(finite.ok_or_else(|| unfit("a number must be finite"))?)
        }
        DeValue::Boolean(truth) => Value::Bool(*truth),
        DeValue::Datetime(_) => return Err(unfit("a date must be put in quotes")),
        DeValue::Array(items) => Value::Array(items.iter().map(json).collect::<Result<_, _>>()?),
        DeValue::Table(table) => {
            let entry = |(key, value): (&Spanned<_>, &Spanned<_>)| {
                Ok((std::borrow::Cow::to_string(key.get_ref()), json(value)?))
            };
            Value::Object(table.iter().map(entry).collect::<Result<_, _>>()?)
        }
    })
}
