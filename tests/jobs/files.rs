//! Does with files what a program may try, and says what came of it.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};

fn main() {
    say("whole", fs::read_to_string("/job/stops"));
    say("lines", File::open("/job/large").map(|file| BufReader::new(file).lines().count()));
    say("end", part_of("/job/large", SeekFrom::End(-9), 8));
    say("length", fs::metadata("/job/large").map(|state| state.len()));
    say("beyond the end", part_of("/job/stops", SeekFrom::Start(1 << 40), 1));
    say("folder", folder("/job"));
    say("folder in it", folder("/job/lists"));
    say("one of no name", folder("/job/list"));
    say("in a folder", fs::read_to_string("/job/lists/de/stops"));
    say("a folder's state", fs::metadata("/job/lists/de").map(|state| state.is_dir()));
    say("a folder as a file", fs::read("/job/lists"));
    say("above a folder", fs::read("/job/lists/../stops"));
    say("none", fs::read("/job/none"));
    say("elsewhere", fs::read("/etc/passwd"));
    say("above", fs::read("/job/../job/stops"));
    say("as a folder", fs::read_dir("/job/stops"));
    say("as a link", fs::read_link("/job/stops"));
    say("new", File::create("/job/new"));
    say("written", fs::write("/job/stops", "other"));
    say("appended", File::options().append(true).open("/job/stops"));
    say("written to what was opened", File::open("/job/stops").and_then(|mut file| file.write(b"x")));
    say("removed", fs::remove_file("/job/stops"));
    say("renamed", fs::rename("/job/stops", "/job/starts"));
    say("new folder", fs::create_dir("/job/new"));
}

fn part_of(path: &str, from: SeekFrom, len: u64) -> io::Result<String> {
    let mut file = File::open(path)?;
    let at = file.seek(from)?;
    let mut text = String::new();
    file.take(len).read_to_string(&mut text)?;
    Ok(format!("{text} at {at}"))
}

fn folder(path: &str) -> io::Result<Vec<String>> {
    let entries = fs::read_dir(path)?;
    entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

fn say<T: std::fmt::Debug>(what: &str, came: io::Result<T>) {
    match came {
        Ok(came) => println!("{what}\t{came:?}"),
        Err(error) => println!("{what}\t{:?}", error.raw_os_error()),
    }
}
