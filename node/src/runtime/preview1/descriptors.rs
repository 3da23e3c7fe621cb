//! The functions of preview 1 on descriptors and paths: stdin, stdout and stderr, and what is in the directories
//! that a run is given.

use wasmtime::{Caller, Linker};

use super::files::{self, Entry, Kind};
use super::{Done, EPOCH, Errno, MODULE, STDERR, STDIN, STDOUT, answered, number, put};
use crate::runtime::command::Process;
use crate::runtime::imports::{memory_of, slice, slice_mut};
use crate::runtime::outbox::{Full, OUT, Outbox};
use crate::runtime::side::IPFS;
use crate::runtime::{GuestError, PIECE};

/// Pieces that one read or write may have; IOV_MAX of most systems.
const PIECES_LIMIT: u32 = 1_024;

/// A read that has so many bytes leaves the pieces that follow: so the memory of the guest bounds what one call
/// may cost, however often it lists the same piece.
const READ_ENOUGH: usize = 1 << 20;

/// How a file is to be opened, a bit each.
const CREATE: u32 = 1;
const MUST_BE_DIRECTORY: u32 = 1 << 1;
const MUST_BE_NEW: u32 = 1 << 2;
const TRUNCATE: u32 = 1 << 3;

/// A flag of a descriptor: what is written goes to the end.
const APPEND: u32 = 1;

/// The longest part of the path of a file that is written: what file systems allow on which the result may be saved.
const NAME_LIMIT: usize = 255;

/// What may be done with a descriptor, a bit each.
const MAY_READ: u64 = 1 << 1;
const MAY_SEEK: u64 = 1 << 2;
const MAY_TELL: u64 = 1 << 5;
const MAY_WRITE: u64 = 1 << 6;
const MAY_STAT: u64 = 1 << 21;

/// What `fd_seek` counts from.
const FROM_START: u32 = 0;
const FROM_HERE: u32 = 1;
const FROM_END: u32 = 2;

/// Links the functions.
pub(super) fn link(linker: &mut Linker<Process>) -> Result<(), wasmtime::Error> {
    link_streams(linker)?;
    link_states(linker)?;
    link_directory(linker)
}

/// What works on bytes.
fn link_streams(linker: &mut Linker<Process>) -> Result<(), wasmtime::Error> {
    serve! { linker, |memory, process|
        fd_read(fd: u32, pieces: u32, n: u32, count: u32) => {
            read(memory, process, fd, (pieces, n), count)
        };
        fd_pread(fd: u32, pieces: u32, n: u32, offset: u64, count: u32) => {
            read_at(memory, process, fd, (pieces, n), offset, count)
        };
        fd_write(fd: u32, pieces: u32, n: u32, count: u32) => {
            write(memory, process, fd, (pieces, n), count)
        };
        fd_seek(fd: u32, offset: i64, whence: u32, at: u32) => {
            seek(memory, process, fd, offset, whence, at)
        };
        fd_tell(fd: u32, at: u32) => seek(memory, process, fd, 0, FROM_HERE, at);
    }
    serve! { linker, |_memory, process|
        fd_filestat_set_size(fd: u32, len: u64) => set_len(process, fd, len);
        // What is written is kept when the item has ended.
        fd_sync(fd: u32) => process.world.files.entry(fd, &process.state.side).map(drop).map_err(Into::into);
        fd_datasync(fd: u32) => process.world.files.entry(fd, &process.state.side).map(drop).map_err(Into::into);
    }
    linker.func_wrap(MODULE, "fd_close", |mut caller: Caller<'_, Process>, fd: u32| {
        // A stream stays as it is: what else is opened never takes its number.
        let closed = if fd <= STDERR { Ok(()) } else { caller.data_mut().world.files.close(fd) };
        answered(closed.map_err(Into::into))
    })?;
    Ok(())
}

/// What says how things are.
fn link_states(linker: &mut Linker<Process>) -> Result<(), wasmtime::Error> {
    serve! { linker, |memory, process|
        fd_fdstat_get(fd: u32, at: u32) => {
            let entry = process.world.files.entry(fd, &process.state.side);
            put_state(memory, at, entry, descriptor_state)
        };
        fd_filestat_get(fd: u32, at: u32) => {
            let entry = process.world.files.entry(fd, &process.state.side);
            put_state(memory, at, entry, file_state)
        };
        path_filestat_get(fd: u32, _flags: u32, path: u32, len: u32, at: u32) => {
            let path = slice(memory, path, len, "a path to `path_filestat_get`")?;
            look_up(process, fd, path)?;
            let entry = process.world.files.find(fd, path, &process.state.side);
            put_state(memory, at, entry, file_state)
        };
    }
    linker.func_wrap(
        MODULE,
        "fd_fdstat_set_flags",
        |mut caller: Caller<'_, Process>, fd: u32, _flags: u32| {
            let process = caller.data_mut();
            let entry = process.world.files.entry(fd, &process.state.side);
            answered(entry.map(drop).map_err(Into::into))
        },
    )?;
    Ok(())
}

/// What finds and opens files.
fn link_directory(linker: &mut Linker<Process>) -> Result<(), wasmtime::Error> {
    serve! { linker, |memory, process|
        // A program asks for its directories one by one, until there is none.
        fd_prestat_get(fd: u32, at: u32) => {
            process.world.looked_for_files = true;
            let path = process.world.files.given(fd)?;
            // `[type u8][length of the name u32 at 4]`; zero is a directory.
            put(memory, at, &u64::to_le_bytes((path.len() as u64) << 32))
        };
        fd_prestat_dir_name(fd: u32, at: u32, len: u32) => {
            let path = process.world.files.given(fd)?;
            if (len as usize) < path.len() {
                return Err(Errno::Invalid.into());
            }
            put(memory, at, path.as_bytes())
        };
        fd_readdir(fd: u32, at: u32, len: u32, from: u64, used: u32) => {
            list(memory, process, fd, (at, len), from, used)
        };
        path_readlink(fd: u32, path: u32, len: u32, _room: u32, _cap: u32, _used: u32) => {
            let path = slice(memory, path, len, "a path to `path_readlink`")?;
            // Nothing that there is is a link.
            process.world.files.find(fd, path, &process.state.side)?;
            Err(Errno::Invalid.into())
        };
        path_open(
            fd: u32, _lookup: u32, path: u32, len: u32,
            how: u32, rights: u64, _inherited: u64, flags: u32, opened: u32
        ) => {
            open(memory, process, fd, (path, len), How { how, rights, flags }, opened)
        };
        path_create_directory(fd: u32, path: u32, len: u32) => {
            // It is there when something is in it.
            own_path(process, fd, slice(memory, path, len, "a path to `path_create_directory`")?).map(drop)
        };
        path_unlink_file(fd: u32, path: u32, len: u32) => {
            unlink(process, fd, slice(memory, path, len, "a path to `path_unlink_file`")?)
        };
        path_rename(fd: u32, from: u32, from_len: u32, to_fd: u32, to: u32, to_len: u32) => {
            let from = slice(memory, from, from_len, "a path to `path_rename`")?;
            let to = slice(memory, to, to_len, "a path to `path_rename`")?;
            rename(process, (fd, from), (to_fd, to))
        };
    }
    Ok(())
}

/// Reads into the pieces of memory listed at `pieces`, until one is not filled.
fn read(
    memory: &mut [u8],
    process: &mut Process,
    fd: u32,
    (pieces, n): (u32, u32),
    count: u32,
) -> Done {
    if n > PIECES_LIMIT {
        return Err(Errno::Invalid.into());
    }
    let mut total = 0;
    for index in 0..n {
        let (ptr, len) = piece(memory, pieces, index)?;
        let room = slice_mut(memory, ptr, len, "room for `fd_read`")?;
        let read = match fd {
            STDIN => process.read(room),
            _ if process.world.files.is_device(fd) => {
                process.world.device.read(room, &process.state.answer)
            }
            _ => read_file(process, fd, room)?,
        };
        total += read;
        if read < room.len() || total >= READ_ENOUGH {
            break;
        }
    }
    put(memory, count, &(total as u32).to_le_bytes())
}

/// [`read`] from `offset` of a file, which stays where it is.
fn read_at(
    memory: &mut [u8],
    process: &mut Process,
    fd: u32,
    pieces: (u32, u32),
    offset: u64,
    count: u32,
) -> Done {
    let before = std::mem::replace(&mut process.world.files.cursor(fd)?.at, offset);
    let done = read(memory, process, fd, pieces, count);
    process.world.files.cursor(fd)?.at = before;
    done
}

fn read_file(process: &mut Process, fd: u32, room: &mut [u8]) -> Result<usize, wasmtime::Error> {
    let cursor = process.world.files.cursor(fd)?;
    let read = process.state.read_file(cursor.name.as_bytes(), cursor.at, room)?;
    let read = read.ok_or(Errno::NoEntry)?;
    cursor.at += read as u64;
    Ok(read)
}

/// Writes the pieces of memory listed at `pieces`. They may be the same piece a thousand times, so the
/// time is looked at on the way.
fn write(
    memory: &mut [u8],
    process: &mut Process,
    fd: u32,
    (pieces, n): (u32, u32),
    count: u32,
) -> Done {
    if n > PIECES_LIMIT {
        return Err(Errno::Invalid.into());
    }
    let is_device = process.world.files.is_device(fd);
    let is_own = process.world.files.entry(fd, &process.state.side).is_ok_and(|at| at.is_own());
    if fd != STDOUT && fd != STDERR && !is_device && !is_own {
        return Err(Errno::BadDescriptor.into());
    }
    let (mut total, mut unchecked) = (0_u32, 0);
    for index in 0..n {
        let (ptr, len) = piece(memory, pieces, index)?;
        for bytes in slice(memory, ptr, len, "bytes to `fd_write`")?.chunks(PIECE) {
            if is_device {
                process.write_device(bytes)?;
            } else if fd == STDOUT {
                process.write_stdout(bytes)?;
            } else if fd == STDERR {
                process.write_stderr(bytes);
            } else {
                write_file(process, fd, bytes)?;
            }
            unchecked += bytes.len();
            if unchecked >= PIECE {
                process.state.check()?;
                unchecked = 0;
            }
        }
        total = total.saturating_add(len);
    }
    put(memory, count, &total.to_le_bytes())
}

fn write_file(process: &mut Process, fd: u32, bytes: &[u8]) -> Done {
    let cursor = process.world.files.cursor(fd)?;
    let (name, at) = (cursor.name.clone(), cursor.at);
    cursor.at += bytes.len() as u64;
    let written = outbox(process)?.write(&name, at, bytes);
    process.state.keep(written)?.ok_or_else(|| Errno::NoEntry.into())
}

fn set_len(process: &mut Process, fd: u32, len: u64) -> Done {
    let name = process.world.files.cursor(fd)?.name.clone();
    let set = outbox(process)?.set_len(&name, len);
    process.state.keep(set)?.ok_or_else(|| Errno::BadDescriptor.into())
}

/// What the command writes, if it may.
fn outbox(process: &mut Process) -> Result<&mut Outbox, Errno> {
    process.state.side.outbox.as_mut().ok_or(Errno::ReadOnly)
}

/// The path, from the root on, of what may be written.
fn own_path(process: &Process, fd: u32, path: &[u8]) -> Result<String, wasmtime::Error> {
    let path = process.world.files.path(fd, path)?;
    let is_own = files::is_below(OUT, &path) && process.state.side.outbox.is_some();
    if !is_own {
        return Err(Errno::ReadOnly.into());
    }
    if path.split('/').any(|part| part.len() > NAME_LIMIT) {
        return Err(Errno::NameTooLong.into());
    }
    Ok(path)
}

fn unlink(process: &mut Process, fd: u32, path: &[u8]) -> Done {
    let path = own_path(process, fd, path)?;
    process.world.files.forget(|name| name == path);
    if outbox(process)?.remove(&path) { Ok(()) } else { Err(Errno::NoEntry.into()) }
}

fn rename(process: &mut Process, (fd, from): (u32, &[u8]), (to_fd, to): (u32, &[u8])) -> Done {
    let (from, to) = (own_path(process, fd, from)?, own_path(process, to_fd, to)?);
    match files::there(&to, &process.state.side).map(|entry| entry.kind) {
        Ok(Kind::Directory) => return Err(Errno::IsDirectory.into()),
        Ok(_) | Err(Errno::NoEntry) => {}
        Err(error) => return Err(error.into()),
    }
    if outbox(process)?.rename(&from, &to) { Ok(()) } else { Err(Errno::NoEntry.into()) }
}

/// Looks for a file that a path names by its CID.
fn look_up(process: &mut Process, fd: u32, path: &[u8]) -> Done {
    match process.world.files.path(fd, path) {
        Ok(path) if files::is_below(IPFS, &path) => process.state.look_up(&path).map(drop),
        // What is wrong with it is said by what uses it.
        _ => Ok(()),
    }
}

/// The pointer and length at `index` of a list of them.
fn piece(memory: &[u8], pieces: u32, index: u32) -> Result<(u32, u32), GuestError> {
    let at = pieces.saturating_add(index * 8);
    Ok((number(memory, at)?, number(memory, at.saturating_add(4))?))
}

/// Goes to another place in a file, and says where that is.
fn seek(
    memory: &mut [u8],
    process: &mut Process,
    fd: u32,
    offset: i64,
    whence: u32,
    at: u32,
) -> Done {
    if fd <= STDERR {
        return Err(Errno::Pipe.into());
    }
    let cursor = process.world.files.cursor(fd)?;
    let base = match whence {
        FROM_START => 0,
        FROM_HERE => cursor.at,
        FROM_END => process.state.side.len(cursor.name.as_bytes()).unwrap_or_default(),
        _ => return Err(Errno::Invalid.into()),
    };
    // Programs have it as a signed number.
    let place = base.checked_add_signed(offset).filter(|&place| i64::try_from(place).is_ok());
    cursor.at = place.ok_or(Errno::Invalid)?;
    put(memory, at, &cursor.at.to_le_bytes())
}

fn put_state<const N: usize>(
    memory: &mut [u8],
    at: u32,
    entry: Result<Entry<'_>, Errno>,
    state: impl FnOnce(Entry<'_>) -> [u8; N],
) -> Done {
    put(memory, at, &state(entry?))
}

/// `[type u8][flags u16 at 2][rights u64 at 8][rights of what it opens u64]`. A program asks for some of the
/// latter when it opens a file: it may ask for all, and be told that it cannot write.
fn descriptor_state(entry: Entry<'_>) -> [u8; 24] {
    let rights = match entry.kind {
        Kind::File if entry.is_own() => MAY_READ | MAY_WRITE | MAY_SEEK | MAY_TELL | MAY_STAT,
        Kind::File => MAY_READ | MAY_SEEK | MAY_TELL | MAY_STAT,
        Kind::Device => MAY_READ | MAY_WRITE | MAY_STAT,
        Kind::Directory | Kind::Stream => u64::MAX,
    };
    let mut state = [0; 24];
    state[0] = entry.kind as u8;
    state[8..16].copy_from_slice(&rights.to_le_bytes());
    state[16..24].copy_from_slice(&u64::MAX.to_le_bytes());
    state
}

/// `[device u64][inode u64][type u8][links u64 at 24][length u64][three times u64]`.
fn file_state(entry: Entry<'_>) -> [u8; 64] {
    let mut state = [0; 64];
    state[8..16].copy_from_slice(&entry.inode.to_le_bytes());
    state[16] = entry.kind as u8;
    state[24] = 1;
    state[32..40].copy_from_slice(&entry.len.to_le_bytes());
    state[40..].chunks_exact_mut(8).for_each(|time| time.copy_from_slice(&EPOCH.to_le_bytes()));
    state
}

/// Lists a directory from its entry `from` on: `[number of the next u64][inode u64][length of the name u32]
/// [type u8][name at 24]` each, the last one cut where the room ends.
fn list(
    memory: &mut [u8],
    process: &mut Process,
    fd: u32,
    (at, len): (u32, u32),
    from: u64,
    used: u32,
) -> Done {
    let directory = process.world.files.directory(fd)?;
    let room = slice_mut(memory, at, len, "room for `fd_readdir`")?;
    let mut filled = 0;
    for (entry, next) in files::entries(&process.state.side, directory).zip(1_u64..) {
        if next <= from {
            continue;
        }
        let name = entry.name();
        let mut listed = [0; 24];
        listed[..8].copy_from_slice(&next.to_le_bytes());
        listed[8..16].copy_from_slice(&entry.inode.to_le_bytes());
        listed[16..20].copy_from_slice(&(name.len() as u32).to_le_bytes());
        listed[20] = entry.kind as u8;
        for bytes in [&listed[..], name.as_bytes()] {
            let fits = bytes.len().min(room.len() - filled);
            room[filled..][..fits].copy_from_slice(&bytes[..fits]);
            filled += fits;
        }
    }
    put(memory, used, &(filled as u32).to_le_bytes())
}

/// How something is to be opened.
struct How {
    how: u32,
    rights: u64,
    flags: u32,
}

/// Opens a file, or a directory, to read; or a file of its own to write.
fn open(
    memory: &mut [u8],
    process: &mut Process,
    fd: u32,
    (path, len): (u32, u32),
    How { how, rights, flags }: How,
    opened: u32,
) -> Done {
    let path = slice(memory, path, len, "a path to `path_open`")?;
    process.world.files.directory(fd)?;
    look_up(process, fd, path)?;
    let kind = process.world.files.find(fd, path, &process.state.side).map(|entry| entry.kind);
    let changes = how & (CREATE | MUST_BE_NEW | TRUNCATE) != 0 || rights & MAY_WRITE != 0;
    if changes && kind != Ok(Kind::Device) {
        let path = own_path(process, fd, path)?;
        make(process, &path, kind, how)?;
    }
    let entry = process.world.files.find(fd, path, &process.state.side)?;
    if how & MUST_BE_DIRECTORY != 0 && entry.kind != Kind::Directory {
        return Err(Errno::NotDirectory.into());
    }
    let at = if flags & APPEND != 0 { entry.len } else { 0 };
    let new = process.world.files.open(entry, at)?;
    put(memory, opened, &new.to_le_bytes())
}

/// Makes or empties the file at `path`, as it is to be opened.
fn make(process: &mut Process, path: &str, kind: Result<Kind, Errno>, how: u32) -> Done {
    match kind {
        Ok(_) if how & MUST_BE_NEW != 0 => Err(Errno::Exists.into()),
        Ok(Kind::Directory) => Err(Errno::IsDirectory.into()),
        Ok(_) if how & TRUNCATE != 0 => {
            let cut = outbox(process)?.set_len(path, 0);
            process.state.keep(cut).map(drop)
        }
        Ok(_) => Ok(()),
        Err(Errno::NoEntry) if how & CREATE != 0 => {
            let made = outbox(process)?.create(path);
            process.state.keep(made)?.map_err(|Full| Errno::NoRoom.into())
        }
        Err(error) => Err(error.into()),
    }
}
