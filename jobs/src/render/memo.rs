//! What determines what a task, or a whole job, gives, for the memo.

use serde_json::{Value, json};

use crate::memo::digest_of_inputs;
use crate::message::Input;

use super::config::Config;
use super::plan::Body;

/// The version of what a task gives. A change that can show in it raises this.
const VERSION: u32 = 1;

/// What determines what a task with this body and these inputs gives, as bytes: the image, the command as it is
/// filled in, what it may read and what it is to leave.
pub(super) fn input(config: &Value, body: &[u8], inputs: &[Input]) -> Option<Vec<u8>> {
    let config = Config::read(config).ok()?;
    if config.needs().network {
        // What comes from the network is another each time.
        return None;
    }
    let body = Body::decode(body)?;
    let own = match &body {
        Body::Render { frames, tile } => {
            json!([
                config.render.filled(&config.values(frames, *tile)),
                config.params,
                config.files
            ])
        }
        Body::Compose { frame } => json!([config.tiles, config.files_of(*frame)]),
        Body::Assemble {} => json!([config.assemble, config.frames, config.params, config.files]),
    };
    let mut text = VERSION.to_be_bytes().to_vec();
    text.extend(digest_of_inputs(inputs));
    // Maps are sorted by key: the same configuration gives the same bytes.
    serde_json::to_writer(&mut text, &json!([body, own])).ok()?;
    Some(text)
}

/// What determines the result of a job so configured.
pub(super) fn result(config: &Value) -> Option<Vec<u8>> {
    if Config::read(config).ok()?.needs().network {
        return None;
    }
    let mut text = VERSION.to_be_bytes().to_vec();
    serde_json::to_writer(&mut text, config).ok()?;
    Some(text)
}
