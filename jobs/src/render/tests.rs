//! A rendering as a whole, without the world.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::io::Cursor;

use bytes::Bytes;
use image::{ImageFormat, Rgb, RgbImage};
use serde_json::Value;

use super::config::{Config, Place, Tiles};
use super::output::{End, Output};
use super::plan::{self, Body};
use super::*;
use crate::fake::{Last, World};
use crate::ids::TaskId;
use crate::kind::{Failure, Step, TaskError};
use crate::log::Log;
use crate::manifest::Limits;
use crate::memo::MemoKey;
use crate::message::{Input, Payload};
use crate::spec::{self, Overrides};

const WHOLE: &str = r#"
kind = "render"
image = "image.tar"
command = ["paint", "{frame}", "/out/f{frame:03}.png"]
frames = "1-4"
outputs = ["f{frame:03}.png"]
"#;

/// A directory with an image and a scene.
fn directory() -> World {
    let world = World::new();
    for name in ["job.toml", "image.tar", "scene", "textures/wood"] {
        world.name(name, name.as_bytes());
    }
    world
}

fn checked(toml: &str) -> Result<Config, Vec<String>> {
    let (params, inputs) = (serde_json::Map::new(), std::collections::BTreeMap::new());
    let over = Overrides { input: None, params: &params, inputs: &inputs };
    match spec::check(toml, spec::FILE, over, &directory()) {
        Ok(mut specs) => Ok(Config::read(&specs.remove(0).1).unwrap()),
        Err(errors) => Err(errors.iter().map(ToString::to_string).collect()),
    }
}

fn frozen(config: &Config) -> Value {
    serde_json::to_value(config).unwrap()
}

fn bodies(config: &Config) -> Vec<Body> {
    plan::tasks(config).iter().map(|task| Body::decode(&task.body).unwrap()).collect()
}

fn done(name: &str) -> Bytes {
    let files = [(name.to_owned(), directory().put(name.as_bytes()))].into();
    Output::of(End::Done { files, thumbnails: Default::default() }).encode()
}

#[test]
fn what_lies_in_the_directory_is_given_but_not_what_is_about_the_job() {
    let config = checked(WHOLE).unwrap();
    let given: Vec<_> = config.files.keys().map(String::as_str).collect();
    assert_eq!(given, ["scene", "textures/wood"]);
    let named = checked(&format!("{WHOLE}[files]\n\"a/b\" = \"scene\"\n")).unwrap();
    assert_eq!(named.files.keys().collect::<Vec<_>>(), ["a/b"]);
    assert_eq!(config.needs().runtimes, BTreeSet::from([crate::engine::Runtime::Container]));
}

#[test]
fn a_directory_of_more_files_than_a_job_can_name_is_refused_with_how_many_it_can() {
    let world = directory();
    for n in 0..1_000 {
        world.name(&format!("textures/{n}"), n.to_string().as_bytes());
    }
    let (params, inputs) = (serde_json::Map::new(), std::collections::BTreeMap::new());
    let over = Overrides { input: None, params: &params, inputs: &inputs };
    let errors = spec::check(WHOLE, spec::FILE, over, &world).err().unwrap();
    let error = errors[0].to_string();
    assert!(error.contains("/job would have 1002 files"), "{error}");
}

#[test]
fn tasks_are_frames_batches_or_tiles_with_what_puts_them_together() {
    let render = |frames: &[u32], tile| Body::Render { frames: frames.to_vec(), tile };
    let whole =
        checked(&format!("{WHOLE}[assemble]\ncommand = \"x\"\noutputs = [\"film\"]\n")).unwrap();
    let tasks = plan::tasks(&whole);
    assert_eq!(bodies(&whole)[..2], [render(&[1], None), render(&[2], None)]);
    assert_eq!((tasks.len(), tasks[4].needs.clone()), (5, 0..4));

    let batch = WHOLE.replace("{frame}\"", "{first}-{last}\"").replace("/out/f{frame:03}.png", "x");
    let batches = checked(&batch.replace("frames", "batch = 3\nframes")).unwrap();
    assert_eq!(bodies(&batches), [render(&[1, 2, 3], None), render(&[4], None)]);

    let tiles = "tiles = { columns = 2, rows = 1, width = 9, height = 4 }\nframes";
    let tiled =
        WHOLE.replace("paint", "paint{tile}").replace("frames", tiles).replace("1-4", "5,7");
    let tiled = checked(&tiled).unwrap();
    let tasks = plan::tasks(&tiled);
    assert_eq!(
        bodies(&tiled)[..3],
        [render(&[5], Some(0)), render(&[5], Some(1)), render(&[7], Some(0))]
    );
    assert_eq!(bodies(&tiled)[4..], [Body::Compose { frame: 5 }, Body::Compose { frame: 7 }]);
    assert_eq!([tasks[4].needs.clone(), tasks[5].needs.clone()], [0..2, 2..4]);
}

#[test]
fn what_is_wrong_is_told_with_its_line() {
    let errors = |from: &str, to: &str| checked(&WHOLE.replace(from, to)).unwrap_err().join("\n");
    for (from, to, said) in [
        ("image.tar", "absent", "job.toml:3: `image` is \"absent\""),
        ("1-4", "4-1", "job.toml:5: `frames` has \"4-1\": 4-1 ends before it begins"),
        ("f{frame:03}.png\"]\n", "../f{frame}\"]\n", "job.toml:6: `outputs` has \"../f{frame}\""),
        (
            "\"{frame}\", \"/out/f{frame:03}.png\"",
            "\"x\"",
            "job.toml:4: `command` is the same for every frame",
        ),
        ("frames", "batch = 2\nframes", "job.toml:4: `command` names {frame} and makes a `batch`"),
        (
            "frames",
            "tiles = { columns = 9, rows = 1, width = 4, height = 4 }\nframes",
            "job.toml:5: `tiles` has more columns or rows than the picture has pixels",
        ),
        (
            "frames",
            "assemble = { command = \"x\", outputs = [\"frames/x\"] }\nframes",
            "a name that the result uses itself",
        ),
        (
            "frames",
            "resources = { gpu_memory = \"8GiB\" }\nframes",
            "job.toml:5: `resources.gpu_memory` is of GPUs, and `resources.gpus` is 0",
        ),
        ("frames", "input = \"scene\"\nframes", "job.toml:5: a rendering has no `input`"),
    ] {
        let found = errors(from, to);
        assert!(found.contains(said), "{to}: {found}");
    }
}

#[test]
fn places_of_tiles_cover_the_frame_and_nothing_twice() {
    let tiles = Tiles { columns: 3, rows: 2, width: 100, height: 7 };
    let mut covered = BTreeSet::new();
    for n in 0..tiles.count() {
        let Place { left, top, right, bottom } = tiles.place(n);
        for x in left..right {
            assert!((top..bottom).all(|y| covered.insert((x, y))), "twice at {x}");
        }
    }
    assert_eq!(covered.len(), 700);
}

/// A picture of one colour, as a file.
fn picture(world: &World, size: (u32, u32), colour: [u8; 3]) -> crate::ids::FileRef {
    let mut png = Cursor::new(Vec::new());
    RgbImage::from_pixel(size.0, size.1, Rgb(colour)).write_to(&mut png, ImageFormat::Png).unwrap();
    world.put(png.get_ref())
}

#[test]
fn tiles_of_their_own_size_or_of_the_frame_s_make_the_frame() {
    let world = World::new();
    let tile = |left, right, file| super::picture::Tile {
        place: Place { left, top: 0, right, bottom: 5 },
        file,
        holders: &[],
    };
    let (red, blue) = ([200, 0, 0], [0, 0, 200]);
    let tiles =
        [tile(0, 4, picture(&world, (4, 5), red)), tile(4, 10, picture(&world, (10, 5), blue))];
    let frame = super::picture::compose("a.png", (10, 5), &tiles, &world).unwrap();
    let frame = super::picture::bytes(&frame, &[], &world).unwrap();
    let frame = image::load_from_memory(&frame).unwrap().to_rgb8();
    assert_eq!(frame.dimensions(), (10, 5));
    assert_eq!((frame[(3, 4)], frame[(4, 0)]), (Rgb(red), Rgb(blue)));

    let wrong = [tile(0, 4, picture(&world, (3, 5), red))];
    let error = super::picture::compose("a.png", (10, 5), &wrong, &world).unwrap_err();
    assert!(error.to_string().contains("3×5 pixels; expected 4×5"), "{error}");
    let no_picture = [tile(0, 4, world.put(b"text"))];
    assert!(super::picture::compose("a.png", (10, 5), &no_picture, &world).is_err());
    assert_eq!(super::picture::thumbnail(&world.put(b"text"), &world).unwrap(), None);
    let small = super::picture::thumbnail(&picture(&world, (512, 100), red), &world).unwrap();
    let small = super::picture::bytes(&small.unwrap(), &[], &world).unwrap();
    assert_eq!(image::load_from_memory(&small).unwrap().to_rgb8().dimensions(), (256, 50));
}

#[test]
fn a_frame_that_fails_for_good_counts_as_failed_and_the_job_goes_on() {
    let config = checked(WHOLE).unwrap();
    let tasks = plan::tasks(&config);
    let mut course = Render.course(&frozen(&config), &tasks).unwrap();
    let lines = (0..99).map(|n| format!("line {n}")).collect();
    let log = Log { lines, left_out: 0 };
    let failure = Failure { code: "IPDC-5310".into(), message: "no paint".into(), log };
    let given_up = course.give_up(&tasks[1], &failure).unwrap();
    let outputs = [done("f001.png"), given_up.clone(), done("f003.png")];
    for (task, output) in tasks.iter().zip(&outputs) {
        course.follow(Step::Output { task, output }).unwrap();
    }
    let cancelled = course.withdraw(&tasks[3], &[3].into()).unwrap();
    assert_eq!(cancelled.items, [3]);
    course.follow(Step::Output { task: &tasks[3], output: &cancelled.output }).unwrap();
    let items = course.items();
    assert_eq!((items.total, items.done, items.failed, items.cancelled), (4, 2, 1, 1));
    // Neither is for a worker to say.
    for output in [given_up.clone(), cancelled.output.clone()] {
        assert!(!Render.is_output(&tasks[1], &Payload::Inline(output)));
    }

    let world = directory();
    let all = [outputs.to_vec(), vec![cancelled.output]].concat();
    let last = Last {
        world: &world,
        outputs: (0..).zip(all).map(|(n, output)| (TaskId(n), Payload::Inline(output))).collect(),
        bodies: tasks.iter().map(|task| task.body.clone()).collect(),
    };
    let finished = Render.finish(&frozen(&config), &last).unwrap();
    let names: Vec<_> = finished.files.iter().map(|file| file.name.as_str()).collect();
    assert_eq!(names, ["frames/f001.png", "frames/f003.png", "results.jsonl"]);
    assert_eq!(
        (&finished.remarks["failed"], &finished.remarks["cancelled"]),
        (&1.into(), &1.into())
    );
    let rows = Render.rows(&frozen(&config), &last.read(1).unwrap());
    assert_eq!(rows[0]["error"]["message"], "no paint");
    assert_eq!(rows[0]["log"].as_array().unwrap().len(), output::LOG_LINES);
}

#[test]
fn a_frame_is_remembered_by_what_makes_it_and_by_nothing_else() {
    let config = checked(WHOLE).unwrap();
    let key = |config: &Config, task: usize| {
        let body = &plan::tasks(config)[task].body;
        MemoKey::of(&Render, &frozen(config), &Limits::default(), body, &[]).unwrap()
    };
    let more = Config { frames: "1-99".to_owned().try_into().unwrap(), ..config.clone() };
    assert_eq!(key(&config, 2), key(&more, 2));
    assert_ne!(key(&config, 1), key(&config, 2));
    let mut other = config.clone();
    other.render.container.image = World::new().put(b"another").cid;
    assert_ne!(key(&config, 1), key(&other, 1));
    let mut other = config.clone();
    other.files.pop_first();
    assert_ne!(key(&config, 1), key(&other, 1));
}

#[test]
fn a_tile_that_nobody_has_any_more_is_asked_for_by_the_task_that_made_it() {
    let tiles = "tiles = { columns = 2, rows = 1, width = 9, height = 4 }\nframes";
    let toml = WHOLE.replace("paint", "paint{tile}").replace("frames", tiles).replace("1-4", "5");
    let (config, world) = (checked(&toml).unwrap(), World::new());
    let gone = crate::ids::FileRef { cid: crate::ids::cid_of(crate::ids::CODEC_RAW, b"?"), len: 1 };
    let input = |task, file| {
        let files = [("f005.png".to_owned(), file)].into();
        let output = Output::of(End::Done { files, thumbnails: Default::default() });
        let payload = Payload::Inline(output.encode());
        Input { task: TaskId(task), payload, holders: Vec::new() }
    };
    let inputs = [input(0, picture(&world, (4, 4), [1, 2, 3])), input(1, gone)];
    let error =
        super::run::task(&config, &Body::Compose { frame: 5 }, &inputs, &world).unwrap_err();
    let TaskError::Missing { file, task, .. } = error else { panic!("{error}") };
    assert_eq!((*file, task), (gone, Some(TaskId(1))));
}
