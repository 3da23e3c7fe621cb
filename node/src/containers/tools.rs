//! This program, so that it runs in any container: with the libraries that it was started with, whatever the image has.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// Where it lies in a container.
pub const TOOLS: &str = "/.ipdc";

/// Its own name there.
const PROGRAM: &str = "ipdc";

/// The command that runs it in a container with these arguments, once `folder` is mounted there. Puts into the folder what
/// is not there yet.
pub(super) fn install(folder: &Path) -> io::Result<Vec<String>> {
    let maps = fs::read_to_string("/proc/self/maps")?;
    let own = fs::read_link("/proc/self/exe")?;
    let mut command = vec![format!("{TOOLS}/{PROGRAM}")];
    for library in libraries(&maps, &own) {
        let Some(name) = library.file_name() else { continue };
        put(&library, &folder.join(name))?;
        let name = name.to_string_lossy();
        if name.starts_with("ld-") {
            let loader = [format!("{TOOLS}/{name}"), "--library-path".to_owned(), TOOLS.to_owned()];
            command.splice(0..0, loader);
        }
    }
    // Also when the file has been replaced by a newer one.
    put(Path::new("/proc/self/exe"), &folder.join(PROGRAM))?;
    Ok(command)
}

/// The files that a process executes, but for its own program: its libraries, and what loads them.
fn libraries(maps: &str, own: &Path) -> BTreeSet<PathBuf> {
    let files = maps.lines().filter_map(|line| {
        let (rights, path) = (line.split_whitespace().nth(1)?, line.find('/')?);
        let path = Path::new(&line[path..]);
        (rights.contains('x') && path != own).then(|| path.to_owned())
    });
    files.filter(|path| path.exists()).collect()
}

fn put(from: &Path, to: &Path) -> io::Result<()> {
    fs::copy(from, to)?;
    // For whoever runs there.
    fs::set_permissions(to, fs::Permissions::from_mode(0o755))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_process_executes_is_found_and_its_own_program_left_out() {
        let maps = "\
55d0-55d1 r-xp 00000000 08:01 12 /usr/bin/true\n\
7f00-7f01 r--p 00000000 08:01 13 /etc/passwd\n\
7f02-7f03 r-xp 00000000 08:01 14 /proc/self/exe\n\
7f04-7f05 r-xp 00000000 08:01 15 /nowhere/to/be/found.so\n\
7ffe-7fff r-xp 00000000 00:00 0 [vdso]\n";
        let found = libraries(maps, Path::new("/usr/bin/true"));
        assert_eq!(found, [PathBuf::from("/proc/self/exe")].into());
    }
}
