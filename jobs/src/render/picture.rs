//! Pictures: small ones of frames, and frames of tiles. PNG and JPEG are known; other files are left as they are.

use std::io::Cursor;

use bytes::Bytes;
use image::{DynamicImage, GenericImage, ImageBuffer, ImageFormat, ImageReader, Limits, Pixel};

use crate::ids::{FileRef, PeerId};
use crate::kind::{Host, Lasting, TaskError};

use super::config::Place;
use super::error;

/// The longest file that is looked at as a picture, in bytes: a frame of 8192 × 8192 pixels, barely compressed.
const FILE_LIMIT: u64 = 256 << 20;

/// Bytes that a picture may take in memory: 8192 × 8192 pixels of 16 bits and four channels.
const MEMORY_LIMIT: u64 = 512 << 20;

/// The longer side of a thumbnail, in pixels.
const THUMBNAIL: u32 = 256;

/// All of a file.
pub(super) fn bytes(
    file: &FileRef,
    holders: &[PeerId],
    host: &dyn Host,
) -> Result<Bytes, TaskError> {
    let mut reader = host.open(file, holders)?;
    let mut all = Vec::new();
    while (all.len() as u64) < file.len.min(FILE_LIMIT) {
        let want = usize::try_from(file.len - all.len() as u64).unwrap_or(usize::MAX);
        let read = reader.read_at(all.len() as u64, want);
        let read = read.map_err(|error| TaskError::of_read(file, error))?;
        if read.is_empty() {
            break;
        }
        all.extend_from_slice(&read);
    }
    Ok(all.into())
}

/// The picture in `file`, or why it is none.
fn decode(
    file: &FileRef,
    holders: &[PeerId],
    host: &dyn Host,
) -> Result<Result<DynamicImage, String>, TaskError> {
    if file.len > FILE_LIMIT {
        return Ok(Err(format!("it has {} bytes; at most {FILE_LIMIT} are looked at", file.len)));
    }
    let bytes = bytes(file, holders, host)?;
    let read = || {
        let mut reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format().ok()?;
        let mut limits = Limits::default();
        limits.max_alloc = Some(MEMORY_LIMIT.min(host.room()));
        reader.limits(limits);
        Some(reader.decode().map_err(|error| error.to_string()))
    };
    Ok(read().unwrap_or_else(|| Err("it is no picture".to_owned())))
}

/// A small picture of that in `file`; none, when it is none that is known.
pub(super) fn thumbnail(file: &FileRef, host: &dyn Host) -> Result<Option<FileRef>, TaskError> {
    let Ok(picture) = decode(file, &[], host)? else { return Ok(None) };
    let small = picture.thumbnail(THUMBNAIL, THUMBNAIL);
    // 16 bits a channel are more than a thumbnail needs.
    let small = if small.color().has_alpha() {
        DynamicImage::from(small.to_rgba8())
    } else {
        DynamicImage::from(small.to_rgb8())
    };
    write(&small, ImageFormat::Png, host).map(Some)
}

/// A tile of a frame.
pub(super) struct Tile<'a> {
    /// Where it belongs.
    pub(super) place: Place,
    /// Its picture.
    pub(super) file: FileRef,
    /// Who has that.
    pub(super) holders: &'a [PeerId],
}

/// A frame of this size from its tiles: each a picture of its place alone, or of all the frame.
pub(super) fn compose(
    name: &str,
    size: (u32, u32),
    tiles: &[Tile<'_>],
    host: &dyn Host,
) -> Result<FileRef, TaskError> {
    let format = ImageFormat::from_path(name);
    let format = format.map_err(|error| error::no_tile(name, &error.to_string()))?;
    let mut frame: Option<Frame> = None;
    for Tile { place, file, holders } in tiles {
        let tile = decode(file, holders, host)?.map_err(|why| error::no_tile(name, &why))?;
        let frame = frame.get_or_insert_with(|| Frame::like(&tile, size));
        frame.put(&tile, *place).map_err(|why| error::no_tile(name, &why))?;
    }
    let frame = frame.ok_or_else(|| error::corrupt("the task"))?;
    write(&frame.into(), format, host)
}

/// A frame that is put together, in the form of its first tile.
enum Frame {
    Rgb8(image::RgbImage),
    Rgba8(image::RgbaImage),
    Rgb16(ImageBuffer<image::Rgb<u16>, Vec<u16>>),
    Rgba16(ImageBuffer<image::Rgba<u16>, Vec<u16>>),
}

impl Frame {
    fn like(tile: &DynamicImage, (width, height): (u32, u32)) -> Frame {
        let color = tile.color();
        let is_deep = color.bytes_per_pixel() / color.channel_count() > 1;
        match (is_deep, color.has_alpha()) {
            (false, false) => Frame::Rgb8(ImageBuffer::new(width, height)),
            (false, true) => Frame::Rgba8(ImageBuffer::new(width, height)),
            (true, false) => Frame::Rgb16(ImageBuffer::new(width, height)),
            (true, true) => Frame::Rgba16(ImageBuffer::new(width, height)),
        }
    }

    fn put(&mut self, tile: &DynamicImage, place: Place) -> Result<(), String> {
        match self {
            Frame::Rgb8(frame) => put(frame, &tile.to_rgb8(), place),
            Frame::Rgba8(frame) => put(frame, &tile.to_rgba8(), place),
            Frame::Rgb16(frame) => put(frame, &tile.to_rgb16(), place),
            Frame::Rgba16(frame) => put(frame, &tile.to_rgba16(), place),
        }
    }
}

impl From<Frame> for DynamicImage {
    fn from(frame: Frame) -> Self {
        match frame {
            Frame::Rgb8(frame) => frame.into(),
            Frame::Rgba8(frame) => frame.into(),
            Frame::Rgb16(frame) => frame.into(),
            Frame::Rgba16(frame) => frame.into(),
        }
    }
}

fn put<P: Pixel + 'static>(
    frame: &mut ImageBuffer<P, Vec<P::Subpixel>>,
    tile: &ImageBuffer<P, Vec<P::Subpixel>>,
    Place { left, top, right, bottom }: Place,
) -> Result<(), String> {
    let (width, height) = (right - left, bottom - top);
    let found = tile.dimensions();
    let copied = if found == (width, height) {
        frame.copy_from(tile, left, top)
    } else if found == frame.dimensions() {
        let part = image::imageops::crop_imm(tile, left, top, width, height);
        frame.copy_from(&*part, left, top)
    } else {
        let (whole_width, whole_height) = frame.dimensions();
        return Err(format!(
            "a tile has {}×{} pixels; expected {width}×{height}, or all of the frame's {whole_width}×{whole_height}",
            found.0, found.1
        ));
    };
    copied.map_err(|error| error.to_string())
}

fn write(
    picture: &DynamicImage,
    format: ImageFormat,
    host: &dyn Host,
) -> Result<FileRef, TaskError> {
    let mut bytes = Cursor::new(Vec::new());
    let written = picture.write_to(&mut bytes, format);
    written.map_err(|error| error::no_tile("the picture", &error.to_string()))?;
    let mut file = host.create(Lasting::Kept)?;
    file.write(bytes.get_ref())?;
    file.finish()
}
