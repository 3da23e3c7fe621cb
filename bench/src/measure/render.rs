//! Renderings beside `docker run` of the same frames, and an image on its way to a second node beside a file.

use std::fs::{self, File};
use std::io::Read as _;
use std::time::{Duration, Instant};

use ipdc_tests::engine::{BASE, next_second};
use ipdc_tests::{Engine, JobDir, Node, Program};

use super::rounds::{Rounds, median};
use super::{Bench, Folder, MIB, Noted, reached};
use crate::figures::Figure;
use crate::native::{LONG, timed};

/// Frames of a rendering: some for each processor.
const FRAMES: usize = 12;

/// What a frame's command does: some two seconds of one processor.
const WORK: &str = "awk 'BEGIN { for (i = 0; i < 14000000; i++) x += i; print x }'";

/// Bytes of an image beside its shell.
const IMAGE: u64 = 200 * MIB;

/// A started node with an engine of its own.
fn with_engine() -> (Engine, Node) {
    let engine = Engine::start().expect("an engine can run here");
    let mut node = Node::first();
    node.configure(&engine.settings());
    node.start();
    (engine, node)
}

/// Frames rendered here, and by `docker run`, as many at a time; and the same again.
pub(super) fn frames(bench: &Bench, noted: &mut Noted) {
    let (engine, node) = with_engine();
    let slots = node.api().get("/peers").ok()[0]["facts"]["slots"].as_u64().expect("slots");
    let (mut rounds, mut each, mut made) = (Rounds::default(), Vec::new(), 0);
    for round in 0..bench.rounds {
        let job = JobDir::new(&format!(
            "kind = \"render\"\nimage = \"{BASE}\"\ncommand = \"{WORK} > /out/{{frame}}-{round}.txt\"\n\
             frames = \"1-{FRAMES}\"\noutputs = [\"{{frame}}-{round}.txt\"]\n"
        ));
        let run = || {
            let began = Instant::now();
            let _ = node.cli(["run", "render"]).arg(job.path()).within(LONG).run().ok();
            began.elapsed().as_secs_f64()
        };
        let ours = run();
        let (yardstick, frame) = plainly(&engine, slots as usize);
        rounds.add(ours, yardstick);
        each.push(frame);
        let since = next_second();
        run();
        made += engine.made_since(since);
    }
    let remark = format!("{}; a frame takes {:.1} s", rounds.describe(), median(each));
    let overhead = 100.0 * (rounds.ours_over_yardstick() - 1.0);
    noted.insert(Figure::RenderOverhead, reached(overhead, remark));
    let remark = format!("in {} repetitions of {FRAMES} frames", bench.rounds);
    noted.insert(Figure::RenderAgain, reached(made as f64, remark));
}

/// The same frames by `docker run`, so many at a time: how long all took, and one.
fn plainly(engine: &Engine, at_once: usize) -> (f64, f64) {
    let folder = Folder::new();
    let out = folder.join("out");
    fs::create_dir(&out).expect("a writable folder");
    let mount = format!("{}:/out", out.display());
    let began = Instant::now();
    let took = std::thread::scope(|scope| {
        let hands: Vec<_> = (0..at_once)
            .map(|hand| {
                let mount = &mount;
                scope.spawn(move || {
                    let frames = (hand..FRAMES).step_by(at_once);
                    frames.map(|frame| plain_frame(engine, mount, frame)).sum::<Duration>()
                })
            })
            .collect();
        hands.into_iter().map(|hand| hand.join().expect("docker runs")).sum::<Duration>()
    });
    (began.elapsed().as_secs_f64(), took.as_secs_f64() / FRAMES as f64)
}

fn plain_frame(engine: &Engine, mount: &str, frame: usize) -> Duration {
    let command = format!("{WORK} > /out/{frame}.txt");
    let run = engine.docker(["run", "--rm", "--network", "none", "--volume", mount, BASE]);
    let run: Program = run.args(["/bin/sh", "-c", &command]).within(LONG);
    run.run().ok().took
}

/// An image of two nodes' engines, from one to the other, beside a file of as many bytes.
pub(super) fn image(bench: &Bench, noted: &mut Noted) {
    let (engine, node) = with_engine();
    let other_engine = Engine::start().expect("another engine can run here");
    let mut other = Node::joined(&node.invite(1));
    other.configure(&other_engine.settings());
    other.start();
    node.wait_peers(1);
    let _ = node.cli(["pause"]).run().ok();
    let (mut arrivals, mut rounds, mut loads) = (Rounds::default(), Rounds::default(), Vec::new());
    let archive = node.folder().join("image.tar");
    let archive = archive.to_str().expect("a temp folder's path");
    for round in 0..bench.rounds {
        let name = format!("big:{round}");
        engine.import(&name, &[("big", &random())]);
        // What the engine takes for it when the bytes are there.
        let _ = engine.docker(["save", "--output", archive, &name]).within(LONG).run().ok();
        loads.push(timed(other_engine.docker(["load", "--input", archive])).as_secs_f64());
        let _ = other_engine.docker(["rmi", &name]).run().ok();
        // The same job again, but for its output's name: the image is there by then.
        let first = took(&node, &name, "first");
        let second = took(&node, &name, "second");
        let file = node.folder().join("file");
        fs::write(&file, random()).expect("a writable folder");
        let added = node.cli(["add", "--quiet"]).arg(&file).within(LONG).run().ok();
        let bulk = pinned(&other, added.text());
        rounds.add(first - second, bulk);
        // Another, that is not asked for by an engine.
        let name = format!("blocks:{round}");
        engine.import(&name, &[("big", &random())]);
        let image = node.cli(["images", "add", &name]).within(LONG).run().ok();
        arrivals.add(pinned(&other, image.text()), bulk);
    }
    let remark = format!(
        "{}; ours is a job that needs the image less one that has it; `docker load` of it alone takes {:.2} s",
        rounds.describe(),
        median(loads)
    );
    let arrived = reached(arrivals.yardstick_over_ours(), arrivals.describe());
    noted.insert(Figure::ImageArrival, arrived);
    noted.insert(Figure::ImageTransfer, reached(rounds.yardstick_over_ours(), remark));
}

/// As many bytes as an image has, which nobody has seen.
fn random() -> Vec<u8> {
    let mut bytes = Vec::with_capacity(IMAGE as usize);
    let source = File::open("/dev/urandom").expect("the system's random numbers");
    let _ = source.take(IMAGE).read_to_end(&mut bytes).expect("random numbers without end");
    bytes
}

/// How long a job of one frame takes, in seconds, once it is accepted.
fn took(node: &Node, image: &str, name: &str) -> f64 {
    let job = JobDir::new(&format!(
        "kind = \"render\"\nimage = \"{image}\"\ncommand = \"echo > /out/{name}\"\nframes = \"1\"\noutputs = [\"{name}\"]\n"
    ));
    let id = node.detach(&job);
    let view = node.job_done(&id);
    view["seconds"].as_f64().expect("a job's time")
}

/// How long something takes to be pinned on a node, in seconds.
fn pinned(node: &Node, cid: &str) -> f64 {
    node.cli(["pin", cid]).within(LONG).run().ok().took.as_secs_f64()
}
