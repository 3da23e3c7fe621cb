//! The decoders of this kind: of what controllers say of tasks, and of what workers say they gave.

use crate::fuzz::{Decoder, file, json, same_again};

use super::config::Config;
use super::memo;
use super::output::{End, Output};
use super::plan::{self, Body};

pub(crate) fn decoders() -> Vec<Decoder> {
    vec![
        Decoder { name: "render_config", decode: config, seeds: config_seeds },
        Decoder { name: "render_body", decode: body, seeds: body_seeds },
        Decoder { name: "render_output", decode: output, seeds: output_seeds },
    ]
}

fn config(bytes: &[u8]) {
    let Ok(value) = serde_json::from_slice(bytes) else { return };
    if let Ok(config) = Config::read(&value) {
        let _ = (config.needs(), config.given([]), memo::result(&value));
        for task in plan::tasks(&config).iter().take(20) {
            assert!(memo::input(&value, &task.body, &[]).is_some());
        }
    }
}

fn config_seeds() -> Vec<Vec<u8>> {
    let image = file(b"image").cid.to_string();
    let step = |outputs: &str| {
        serde_json::json!({
            "container": { "image": image, "command": ["paint", "{frame:04}", "{left+1}"] }, "outputs": [outputs],
        })
    };
    let small = serde_json::json!({
        "render": step("{frame}.png"), "frames": "1-3,7-20x2", "batch": 2, "params": {}, "files": {},
    });
    let mut large = small.clone();
    large["batch"] = 1.into();
    large["tiles"] = serde_json::json!({ "columns": 2, "rows": 3, "width": 64, "height": 33 });
    large["assemble"] = step("film");
    large["files"] = serde_json::json!({ "scene": file(b"scene") });
    vec![json(&small), json(&large)]
}

fn body(bytes: &[u8]) {
    same_again::<Body>(bytes);
    if let Some(body) = Body::decode(bytes) {
        let _ = body.frames();
    }
}

fn body_seeds() -> Vec<Vec<u8>> {
    let whole = Body::Render { frames: vec![1, 2, 9], tile: None };
    let tile = Body::Render { frames: vec![7], tile: Some(3) };
    let all = [whole, tile, Body::Compose { frame: 7 }, Body::Assemble {}];
    all.iter().map(json).collect()
}

fn output(bytes: &[u8]) {
    same_again::<Output>(bytes);
    if let Some(output) = Output::decode(bytes) {
        let bodies = body_seeds().into_iter().filter_map(|seed| Body::decode(&seed));
        let _ = (output.files(), bodies.filter(|body| output.fits(body)).count());
    }
}

fn output_seeds() -> Vec<Vec<u8>> {
    let files = [("frame1.png".to_owned(), file(b"frame"))].into();
    let thumbnails = [(1, file(b"small"))].into();
    let log = ["painting".to_owned()].into();
    let done = Output { ms: 7, log, end: End::Done { files, thumbnails } };
    let failed = End::Failed { code: "IPDC-5310".into(), message: "no paint".into() };
    let skipped = End::Skipped { without: "frame 3".into() };
    let others = [failed, skipped, End::Cancelled {}].map(Output::of);
    std::iter::once(&done).chain(&others).map(json).collect()
}
