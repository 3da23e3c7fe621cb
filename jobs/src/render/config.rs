//! The part of `job.toml` that is this kind's own, checked against the job directory and frozen.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::code::{self, Code, Container};
use crate::engine::{Needs, Takes};
use crate::ids::{Cid, FileRef};
use crate::kind::{Given, JobFiles, is_path};
use crate::manifest::MANIFEST_LIMIT;
use crate::spec::{self, JobSpec, Located, Section, SpecError, Unit};

use super::fill::Values;
use super::frames::Frames;

/// Frames of a task at most: a container each would take longer than what they show.
const BATCH: RangeInclusive<u64> = 1..=1_000;

/// Tiles of a frame in one direction at most.
const TILES_LIMIT: u32 = 32;

/// The widest and highest frame that is put together from tiles: it is held in memory, as 0.5 GiB at most.
const SIZE_LIMIT: u32 = 8_192;

/// Processors of the largest machines.
const CPUS: RangeInclusive<u64> = 1..=1_024;

/// GPUs of a container at most.
const GPUS: RangeInclusive<u64> = 0..=64;

/// Memory of a GPU.
const GPU_MEMORY: RangeInclusive<u64> = 1 << 20..=1 << 40;

/// Files that a command may be asked for.
const OUTPUTS_LIMIT: usize = 64;

/// What determines what a job's frames look like.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// What makes a frame, with placeholders.
    pub render: Step,
    /// Which frames.
    pub frames: Frames,
    /// How many of them a task makes.
    pub batch: u32,
    /// In which tiles each is made, if not whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tiles: Option<Tiles>,
    /// What is made of all frames, if anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assemble: Option<Step>,
    /// `[params]`, as written.
    pub params: serde_json::Map<String, Value>,
    /// What is in `/job`, by path.
    pub files: BTreeMap<String, FileRef>,
}

/// A command and what it leaves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// What runs.
    pub container: Container,
    /// The files that it leaves in `/out`, by path.
    pub outputs: Vec<String>,
}

/// Tiles of a frame: so many columns and rows of a picture so wide and high, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tiles {
    /// From left to right.
    pub columns: u32,
    /// From top to bottom.
    pub rows: u32,
    /// Pixels from left to right.
    pub width: u32,
    /// Pixels from top to bottom.
    pub height: u32,
}

/// A tile's place, in pixels from the upper left corner of its frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) left: u32,
    pub(super) top: u32,
    /// The first column and row beyond it.
    pub(super) right: u32,
    pub(super) bottom: u32,
}

impl Tiles {
    pub(super) fn count(&self) -> u32 {
        self.columns * self.rows
    }

    /// The place of the `n`-th, row by row.
    pub(super) fn place(&self, n: u32) -> Place {
        let edge =
            |n: u32, of: u32, size: u32| (u64::from(n) * u64::from(size) / u64::from(of)) as u32;
        let (column, row) = (n % self.columns, n / self.columns);
        Place {
            left: edge(column, self.columns, self.width),
            right: edge(column + 1, self.columns, self.width),
            top: edge(row, self.rows, self.height),
            bottom: edge(row + 1, self.rows, self.height),
        }
    }

    fn is_sane(&self) -> bool {
        let fits = |count: u32, size: u32| {
            (1..=TILES_LIMIT).contains(&count) && (count..=SIZE_LIMIT).contains(&size)
        };
        fits(self.columns, self.width) && fits(self.rows, self.height)
    }
}

impl Step {
    /// The command for these values, and the files that it leaves.
    pub(super) fn filled(&self, values: &Values) -> (Container, Vec<String>) {
        let fill = |texts: &[String]| texts.iter().map(|text| values.fill(text)).collect();
        let container = Container {
            command: fill(&self.container.command),
            entrypoint: self.container.entrypoint.as_deref().map(fill),
            ..self.container.clone()
        };
        (container, fill(&self.outputs))
    }
}

impl Config {
    /// Reads what was frozen. It came from another node, so it is checked again.
    ///
    /// # Errors
    /// When it is not of the form, or out of range.
    pub fn read(value: &Value) -> Result<Self, serde_json::Error> {
        use serde::de::Error as _;
        let config = Config::deserialize(value)?;
        let is_sane = BATCH.contains(&config.batch.into())
            && config.tiles.is_none_or(|tiles| tiles.is_sane() && config.batch == 1);
        if is_sane {
            Ok(config)
        } else {
            Err(serde_json::Error::custom("tiles or batch are out of range"))
        }
    }

    /// What a worker must have, and let the job use.
    pub(super) fn needs(&self) -> Needs {
        let steps = [Some(&self.render), self.assemble.as_ref()].into_iter().flatten();
        let codes: Vec<Code> = steps.map(|step| Code::Container(step.container.clone())).collect();
        Code::needs(&codes)
    }

    /// What the job's commands may read, with these files more.
    pub(super) fn given(&self, more: impl IntoIterator<Item = (String, FileRef)>) -> Given {
        let params = serde_json::to_vec(&self.params).expect("what was JSON encodes");
        let files = self.files.clone().into_iter().chain(more).collect();
        Given { params: params.into(), files, write: true, ..Given::default() }
    }

    /// What stands for the frames of a task, or a tile of one.
    pub(super) fn values(&self, frames: &[u32], tile: Option<u32>) -> Values {
        let (first, last) =
            (frames.first().copied().unwrap_or(0), frames.last().copied().unwrap_or(0));
        let values = Values::default().with("first", first).with("last", last);
        let values = if frames.len() == 1 { values.with("frame", first) } else { values };
        match self.tiles.zip(tile) {
            None => values,
            Some((tiles, n)) => {
                let Place { left, top, right, bottom } = tiles.place(n);
                values
                    .with("tile", n)
                    .with("column", n % tiles.columns)
                    .with("row", n / tiles.columns)
                    .with("columns", tiles.columns)
                    .with("rows", tiles.rows)
                    .with("width", tiles.width)
                    .with("height", tiles.height)
                    .with("left", left)
                    .with("top", top)
                    .with("right", right)
                    .with("bottom", bottom)
            }
        }
    }

    /// The files of one frame.
    pub(super) fn files_of(&self, frame: u32) -> Vec<String> {
        let values = Values::default().with("frame", frame);
        self.render.outputs.iter().map(|name| values.fill(name)).collect()
    }
}

/// Where frames are for the command that assembles them, below `/job`.
pub(super) const FRAMES: &str = "frames";

/// What the result calls its own files and folders: what is assembled stands beside them.
const TAKEN: [&str; 3] = [FRAMES, "results.jsonl", "manifest.json"];

/// The files of a job directory that are not in `/job`, beside the images: they are about the job.
const NOT_GIVEN: [&str; 1] = [spec::FILE];

/// Bytes that the names and CIDs of the files in `/job` may take of a manifest: three quarters of it.
const FILES_LIMIT: usize = MANIFEST_LIMIT / 4 * 3;

/// Checks and freezes `spec`.
pub(super) fn of_spec(spec: &JobSpec, files: &dyn JobFiles) -> Result<Config, Vec<SpecError>> {
    let mut section = spec.rest.clone();
    let frames = section.required_text("frames");
    let frames = frames.and_then(|frames| section.checked::<Frames>("frames", frames));
    let batch = section.integer("batch", BATCH).map_or(1, |batch| batch as u32);
    let line = |key: &str| section.line(key).unwrap_or(1);
    let lines = Lines { command: line("command"), outputs: line("outputs"), tiles: line("tiles") };
    let tiles =
        section.section("tiles").and_then(|given| tiles_of(&mut section, lines.tiles, given));
    let mut images = Images { files, found: BTreeMap::new() };
    let resources = Resources::take(&mut section);
    let render = images.step(&mut section, None, resources);
    let mut assemble = None;
    if let Some(mut given) = section.section("assemble") {
        let default = render.as_ref().map(|step| &step.container);
        let line = given.line("outputs").unwrap_or(1);
        assemble = images.step(&mut given, default, resources);
        let is_taken = |name: &&String| TAKEN.contains(&name.split('/').next().unwrap_or_default());
        if let Some(name) = assemble.iter().flat_map(|step| &step.outputs).find(is_taken) {
            given.error(
                line,
                format!("`assemble.outputs` has \"{name}\", a name that the result uses itself"),
            );
        }
        section.append(given.finish());
    }
    for input in spec.inputs.values().chain(&spec.input) {
        section
            .error(input.line, "a rendering has no `input`; what is in this directory is in /job");
    }
    if let Some(fetch) = &spec.fetch {
        let message = "a rendering does not fetch; expected no `[fetch]`";
        section.error(fetch.line, message);
    }
    let mut given = BTreeMap::new();
    for (name, path) in &spec.files {
        if let Some(file) = code::find(&mut section, &format!("files.{name}"), path, files) {
            given.insert(name.clone(), file);
        }
    }
    if spec.files.is_empty() {
        let is_given = |path: &String| !NOT_GIVEN.contains(&path.as_str()) && !images.has(path);
        let all = files.paths().into_iter().filter(is_given);
        given.extend(all.filter_map(|path| files.find(&path).map(|file| (path, file))));
    }
    let bytes = serde_json::to_vec(&given).map_or(0, |text| text.len());
    if bytes > FILES_LIMIT {
        let message = format!(
            "/job would have {} files, more than a job can name; expected about {}: put them into an archive that the \
             command unpacks, or name in `[files]` those that it reads",
            given.len(),
            FILES_LIMIT * given.len() / bytes,
        );
        section.error(1, message);
    }
    if batch > 1 && tiles.is_some() {
        let message = "`tiles` and `batch` are both given; expected one of them";
        section.error(lines.tiles, message);
    }
    let (Some(render), Some(frames)) = (render, frames) else { return Err(section.finish()) };
    let config = Config {
        render,
        frames,
        batch,
        tiles,
        assemble,
        params: spec.params.clone(),
        files: given,
    };
    check_placeholders(&config, &lines, &mut section);
    let errors = section.finish();
    if errors.is_empty() { Ok(config) } else { Err(errors) }
}

/// Where things are said.
struct Lines {
    command: usize,
    outputs: usize,
    tiles: usize,
}

/// Whether each task has a command of its own, and each frame files of its own.
fn check_placeholders(config: &Config, lines: &Lines, section: &mut Section) {
    let Config { render, frames, batch, tiles, .. } = config;
    let numbers = frames.numbers();
    let is_in = |values: &Values, texts: &[String]| texts.iter().any(|text| values.is_in(text));
    let Container { command, entrypoint, .. } = &render.container;
    let command = [command.as_slice(), entrypoint.as_deref().unwrap_or_default()].concat();
    let frame = Values::default().with("frame", 0).with("first", 0).with("last", 0);
    if numbers.len() > 1 && !is_in(&frame, &command) {
        let message =
            "`command` is the same for every frame; expected {frame}, or {first} and {last}, in it";
        section.error(lines.command, message);
    }
    if *batch > 1 && is_in(&Values::default().with("frame", 0), &command) {
        let message =
            "`command` names {frame} and makes a `batch` of them; expected {first} and {last}";
        section.error(lines.command, message);
    }
    let tile = Values::default()
        .with("tile", 0)
        .with("column", 0)
        .with("row", 0)
        .with("left", 0)
        .with("top", 0);
    if tiles.is_some() && !is_in(&tile, &command) {
        let message = "`command` is the same for every tile; expected {tile}, or {column} and {row}, or {left} and {top}, in it";
        section.error(lines.command, message);
    }
    let own = Values::default().with("frame", 0);
    if numbers.len() > 1
        && let Some(name) = render.outputs.iter().find(|name| !own.is_in(name))
    {
        let message =
            format!("`outputs` has \"{name}\", the same for every frame; expected {{frame}} in it");
        section.error(lines.outputs, message);
    }
    if tiles.is_some() && render.outputs.len() != 1 {
        let message = "a frame of tiles is one picture; expected one file in `outputs`";
        section.error(lines.outputs, message);
    }
}

/// `[resources]`: what each container of a job has of its node.
#[derive(Debug, Clone, Copy, Default)]
struct Resources {
    network: bool,
    takes: Takes,
}

impl Resources {
    fn take(section: &mut Section) -> Self {
        let line = section.line("resources").unwrap_or(1);
        let Some(mut given) = section.section("resources") else { return Resources::default() };
        let takes = Takes {
            cpus: given.integer("cpus", CPUS).unwrap_or_default() as u32,
            gpus: given.integer("gpus", GPUS).unwrap_or_default() as u32,
            gpu_memory: given.measured("gpu_memory", Unit::Bytes, GPU_MEMORY).unwrap_or_default(),
        };
        if takes.gpu_memory > 0 && takes.gpus == 0 {
            given.error(line, "`resources.gpu_memory` is of GPUs, and `resources.gpus` is 0");
        }
        let network = given.truth("network").unwrap_or_default();
        section.append(given.finish());
        Resources { network, takes }
    }
}

/// The images that a job names, each looked for once.
struct Images<'a> {
    files: &'a dyn JobFiles,
    found: BTreeMap<String, Option<Cid>>,
}

impl Images<'_> {
    /// Whether the file at `path` is an image, or what one is built from.
    fn has(&self, path: &str) -> bool {
        self.found.contains_key(path)
    }

    /// The command that `section` describes; where it names no image, that of `default` is meant.
    fn step(
        &mut self,
        section: &mut Section,
        default: Option<&Container>,
        resources: Resources,
    ) -> Option<Step> {
        let image = match (section.text("image"), default) {
            (Some(named), _) => self.find(section, named),
            (None, Some(default)) => Some(default.image),
            (None, None) => section.required_text("image").and(None),
        };
        let command = words(section, "command");
        let entrypoint = words(section, "entrypoint");
        let outputs = outputs(section);
        let (image, outputs) = (image?, outputs?);
        let command = command.unwrap_or_default();
        let Resources { network, takes } = resources;
        Some(Step { container: Container { image, entrypoint, command, network, takes }, outputs })
    }

    fn find(&mut self, section: &mut Section, named: Located<String>) -> Option<Cid> {
        let Located { value: name, line } = named;
        if let Some(found) = self.found.get(&name) {
            return *found;
        }
        let found = self.files.image(&name);
        let found =
            found.map_err(|why| section.error(line, format!("`image` is \"{name}\": {why}"))).ok();
        self.found.insert(name, found);
        found
    }
}

/// A command: a list of words, or a text for `/bin/sh -c`.
fn words(section: &mut Section, key: &'static str) -> Option<Vec<String>> {
    let Located { value, line } = section.value(key)?;
    match &value {
        Value::String(text) if !text.is_empty() => {
            Some(["/bin/sh", "-c", text].map(str::to_owned).into())
        }
        Value::Array(words) if words.iter().all(Value::is_string) => {
            Some(words.iter().filter_map(Value::as_str).map(str::to_owned).collect())
        }
        other => section.unfit(key, line, other, "a list of words, or a text for /bin/sh"),
    }
}

/// The files that a command leaves.
fn outputs(section: &mut Section) -> Option<Vec<String>> {
    let Some(line) = section.line("outputs") else {
        return section.required_text("outputs").and(None);
    };
    let names: Vec<String> = section.list("outputs");
    let wrong = names.iter().find(|name| !is_path(name));
    let message = match wrong {
        Some(name) => {
            format!("`outputs` has \"{name}\"; expected a path below /out, without `.` and `..`")
        }
        None if (1..=OUTPUTS_LIMIT).contains(&names.len()) => return Some(names),
        None => format!("`outputs` has {} files; expected 1 to {OUTPUTS_LIMIT}", names.len()),
    };
    section.error(line, message);
    None
}

fn tiles_of(section: &mut Section, line: usize, mut given: Section) -> Option<Tiles> {
    let mut number = |key, most: u32| {
        if given.line(key).is_none() {
            given.required_text(key);
        }
        given.integer(key, 1..=most.into()).map(|number| number as u32)
    };
    let (columns, rows) = (number("columns", TILES_LIMIT), number("rows", TILES_LIMIT));
    let (width, height) = (number("width", SIZE_LIMIT), number("height", SIZE_LIMIT));
    section.append(given.finish());
    let tiles = Tiles { columns: columns?, rows: rows?, width: width?, height: height? };
    if !tiles.is_sane() {
        section.error(line, "`tiles` has more columns or rows than the picture has pixels");
        return None;
    }
    Some(tiles)
}
