//! Compressed input: which files are, and unpacking them as they are read.
//!
//! A compressed file is one split, since none can be read but from its beginning. It may be of
//! several members or frames. However much it unpacks to, no more than a piece of it is held.

use std::io::{self, Read};

use flate2::bufread::MultiGzDecoder;
use serde::{Deserialize, Serialize};

use crate::ids::FileRef;
use crate::kind::{PlanError, TaskError, Tree};

use super::super::error;
use super::{Compression, Piece, Pieces, Stored};

/// Bytes unpacked at a time, which is what a call of the user's code gets.
const UNPACKED: usize = 1 << 20;

/// The window of zstd's level 22, as a power of two: frames of longer ones are refused.
const WINDOW_LOG_MAX: u32 = 27;

/// A compression.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Codec {
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
}

/// What a compressed split is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Packed {
    /// How it is compressed.
    pub codec: Codec,
    /// Its path in the input, for errors; empty when the input is the file.
    pub path: String,
}

impl Codec {
    /// What a file of this name may be.
    fn of_name(path: &str) -> Option<Codec> {
        match path.rsplit_once('.')?.1 {
            "gz" => Some(Codec::Gzip),
            "zst" => Some(Codec::Zstd),
            _ => None,
        }
    }

    /// What a file may be that begins with these bytes.
    fn of_magic(start: &[u8]) -> Option<Codec> {
        match start {
            [0x1f, 0x8b, 8, ..] => Some(Codec::Gzip),
            // A frame, or one to skip, with which pzstd begins.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Some(Codec::Zstd),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Codec::Gzip => "gzip",
            Codec::Zstd => "zstd",
        }
    }
}

/// How `file` at `path` of the input is compressed. By itself only when its name and its first bytes
/// say the same; of a file that has no name, its bytes.
pub(in crate::mr) fn codec_of(
    compression: Compression,
    path: &str,
    file: &FileRef,
    input: &dyn Tree,
) -> Result<Option<Codec>, PlanError> {
    let named = match compression {
        Compression::Gzip => return Ok(Some(Codec::Gzip)),
        Compression::Zstd => return Ok(Some(Codec::Zstd)),
        Compression::None => return Ok(None),
        Compression::ByName if path.is_empty() => None,
        Compression::ByName => match Codec::of_name(path) {
            None => return Ok(None),
            named => named,
        },
    };
    let start = input.open(file)?.read_at(0, 4)?;
    Ok(Codec::of_magic(&start).filter(|codec| named.is_none_or(|named| named == *codec)))
}

/// Unpacks `stored` with `memory` bytes.
pub(super) fn unpack(
    stored: Stored,
    packed: &Packed,
    memory: usize,
) -> Result<Box<dyn Pieces>, TaskError> {
    let decoder = match packed.codec {
        Codec::Gzip => Decoder::Gzip(MultiGzDecoder::new(stored)),
        Codec::Zstd => {
            let window = memory.max(1).ilog2().min(WINDOW_LOG_MAX);
            let mut decoder = zstd::stream::read::Decoder::with_buffer(stored)
                .map_err(|error| error::compression(&error))?;
            decoder.window_log_max(window).map_err(|error| error::compression(&error))?;
            Decoder::Zstd(decoder)
        }
    };
    let buffer = vec![0; UNPACKED].into_boxed_slice();
    Ok(Box::new(Unpacked { decoder, packed: packed.clone(), buffer }))
}

enum Decoder {
    Gzip(MultiGzDecoder<Stored>),
    Zstd(zstd::stream::read::Decoder<'static, Stored>),
}

impl Decoder {
    fn stored(&self) -> &Stored {
        match self {
            Decoder::Gzip(decoder) => decoder.get_ref(),
            Decoder::Zstd(decoder) => decoder.get_ref(),
        }
    }

    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        match self {
            Decoder::Gzip(decoder) => decoder.read(to),
            Decoder::Zstd(decoder) => decoder.read(to),
        }
    }
}

struct Unpacked {
    decoder: Decoder,
    packed: Packed,
    buffer: Box<[u8]>,
}

impl Pieces for Unpacked {
    fn next(&mut self) -> Result<Option<Piece<'_>>, TaskError> {
        let mut len = 0;
        while len < self.buffer.len() {
            match self.decoder.read(&mut self.buffer[len..]) {
                Ok(0) => break,
                Ok(more) => len += more,
                // The store's own failure, or else what the bytes are.
                Err(failed) => match failed.downcast::<TaskError>() {
                    Ok(failed) => return Err(failed),
                    Err(broken) => {
                        let Packed { codec, path } = &self.packed;
                        let file = self.decoder.stored().file;
                        return Err(error::broken_file(path, &file, codec.name(), &broken));
                    }
                },
            }
        }
        let read = self.decoder.stored().read;
        Ok((len > 0).then_some(Piece { bytes: &self.buffer[..len], read }))
    }
}
