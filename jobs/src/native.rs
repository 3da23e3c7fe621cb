//! Native programs, as far as their first bytes tell: for which machine one is, and that it is for Linux.
//!
//! Nothing is said of whether it runs: libraries and interpreters are the node's.

use serde::{Deserialize, Serialize};

use crate::ids::FileRef;

/// Bytes of a file that say what it is: an ELF header's first fields, or a script's first line, of which
/// Linux reads 256.
pub const HEAD: usize = 256;

/// The longest native program, in bytes: each node that runs it keeps a copy on its disk.
pub const PROGRAM_LIMIT: u64 = 1 << 30;

/// A native program of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Native {
    /// Its file.
    pub program: FileRef,
    /// The machine that it is for; none, when it is a script.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<Machine>,
}

/// A kind of processor that programs are made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Machine {
    /// PCs and servers.
    #[serde(rename = "x86_64")]
    X86_64,
    /// 64-bit ARM.
    Aarch64,
    /// 32-bit ARM.
    Arm,
    /// 64-bit RISC-V.
    Riscv64,
    /// 64-bit POWER.
    Powerpc64,
    /// IBM Z.
    S390x,
}

impl Machine {
    const ALL: [Machine; 6] = [
        Machine::X86_64,
        Machine::Aarch64,
        Machine::Arm,
        Machine::Riscv64,
        Machine::Powerpc64,
        Machine::S390x,
    ];

    /// Its name, as Rust has it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Machine::X86_64 => "x86_64",
            Machine::Aarch64 => "aarch64",
            Machine::Arm => "arm",
            Machine::Riscv64 => "riscv64",
            Machine::Powerpc64 => "powerpc64",
            Machine::S390x => "s390x",
        }
    }

    /// The machine of this name, if it is one that is known here.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Machine> {
        Machine::ALL.into_iter().find(|machine| machine.name() == name)
    }

    /// The label of the nodes that run its programs.
    #[must_use]
    pub fn label(self) -> String {
        format!("machine={}", self.name())
    }

    /// What ELF calls it, and whether its words have 64 bits.
    fn elf(self) -> (u16, bool) {
        match self {
            Machine::X86_64 => (62, true),
            Machine::Aarch64 => (183, true),
            Machine::Arm => (40, false),
            Machine::Riscv64 => (243, true),
            Machine::Powerpc64 => (21, true),
            Machine::S390x => (22, true),
        }
    }
}

/// Why a file is no native program.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoProgram {
    /// It begins like nothing that Linux runs.
    #[error(
        "it is no program: neither WebAssembly, nor an ELF file, nor a script that begins with `#!`"
    )]
    Unknown,
    /// A script whose first line names nothing that could run it.
    #[error(
        "its first line names no interpreter: expected `#!` and an absolute path, in 256 bytes"
    )]
    Interpreter,
    /// An ELF file that is no program of Linux.
    #[error("it is an ELF file, but no program for Linux")]
    System,
    /// For a machine that no node here says it is.
    #[error("it is a program for a machine that is not known here (number {0} in ELF)")]
    Machine(u16),
    /// It is too long.
    #[error("it has {0} bytes; at most {PROGRAM_LIMIT} are allowed")]
    TooLong(u64),
}

impl Native {
    /// The program in `file`, which begins with `head`.
    ///
    /// # Errors
    /// When it is none.
    pub fn of(program: FileRef, head: &[u8]) -> Result<Self, NoProgram> {
        if program.len > PROGRAM_LIMIT {
            return Err(NoProgram::TooLong(program.len));
        }
        let machine = match head {
            [b'#', b'!', line @ ..] => interpreter(line).map(|()| None)?,
            [0x7f, b'E', b'L', b'F', ..] => Some(machine(head)?),
            _ => return Err(NoProgram::Unknown),
        };
        Ok(Native { program, machine })
    }
}

/// Whether the first line of a script, after its `#!`, names an interpreter.
fn interpreter(line: &[u8]) -> Result<(), NoProgram> {
    let is_blank = |byte: &&u8| matches!(byte, b' ' | b'\t');
    let path = &line[line.iter().take_while(is_blank).count()..];
    let has_end = line.contains(&b'\n');
    let is_short = has_end || line.len() < HEAD - 2;
    let is_absolute = path.starts_with(b"/") && !path.starts_with(b"/\n");
    if is_short && is_absolute { Ok(()) } else { Err(NoProgram::Interpreter) }
}

/// The machine that the ELF header at the beginning of `head` names.
fn machine(head: &[u8]) -> Result<Machine, NoProgram> {
    // e_ident with word length, byte order and system; then e_type and e_machine.
    let [_, _, _, _, class, order, _, system, _, _, _, _, _, _, _, _, t0, t1, m0, m1, ..] = *head
    else {
        return Err(NoProgram::System);
    };
    let number = |bytes| match order {
        2 => u16::from_be_bytes(bytes),
        _ => u16::from_le_bytes(bytes),
    };
    // System V or Linux; an executable or, with addresses that are not fixed, a shared object.
    if !matches!(system, 0 | 3) || !matches!(number([t0, t1]), 2 | 3) {
        return Err(NoProgram::System);
    }
    let (named, is_64) = (number([m0, m1]), class == 2);
    let known = Machine::ALL.into_iter().find(|machine| machine.elf() == (named, is_64));
    known.ok_or(NoProgram::Machine(named))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::ids::{CODEC_RAW, cid_of};

    fn of(head: &[u8]) -> Result<Option<Machine>, NoProgram> {
        let program = FileRef { cid: cid_of(CODEC_RAW, head), len: head.len() as u64 };
        Native::of(program, head).map(|native| native.machine)
    }

    fn elf(class: u8, order: u8, system: u8, rest: [u8; 4]) -> Vec<u8> {
        let ident = [&[0x7f, b'E', b'L', b'F', class, order, 1, system][..], &[0; 8]].concat();
        [ident, rest.to_vec(), vec![0; 44]].concat()
    }

    #[test]
    fn an_elf_file_says_for_which_machine_it_is() {
        assert_eq!(of(&elf(2, 1, 0, [3, 0, 62, 0])), Ok(Some(Machine::X86_64)));
        assert_eq!(of(&elf(2, 1, 3, [2, 0, 183, 0])), Ok(Some(Machine::Aarch64)));
        assert_eq!(of(&elf(1, 1, 0, [2, 0, 40, 0])), Ok(Some(Machine::Arm)));
        assert_eq!(of(&elf(2, 2, 0, [0, 2, 0, 22])), Ok(Some(Machine::S390x)));
        // 32 bits of a machine that is known with 64; one that nobody knows.
        assert_eq!(of(&elf(1, 1, 0, [2, 0, 62, 0])), Err(NoProgram::Machine(62)));
        assert_eq!(of(&elf(2, 1, 0, [2, 0, 9, 1])), Err(NoProgram::Machine(265)));
        // FreeBSD; an object that is not linked; a header that ends too early.
        assert_eq!(of(&elf(2, 1, 9, [2, 0, 62, 0])), Err(NoProgram::System));
        assert_eq!(of(&elf(2, 1, 0, [1, 0, 62, 0])), Err(NoProgram::System));
        assert_eq!(of(&elf(2, 1, 0, [2, 0, 62, 0])[..19]), Err(NoProgram::System));
    }

    #[test]
    fn a_script_is_for_any_machine_and_names_what_runs_it() {
        for good in [&b"#!/bin/sh\necho"[..], b"#! /usr/bin/env perl", b"#!/x\n"] {
            assert_eq!(of(good), Ok(None), "{}", good.escape_ascii());
        }
        let long = [b"#!/".to_vec(), vec![b'a'; HEAD - 3]].concat();
        for wrong in [&b"#!"[..], b"#!sh\n", b"#!\n/bin/sh", b"#!/\n", &long] {
            assert_eq!(of(wrong), Err(NoProgram::Interpreter), "{}", wrong.escape_ascii());
        }
    }

    #[test]
    fn what_linux_does_not_run_is_no_program() {
        for wrong in [&b"MZ"[..], b"", b"fn main() {}", b" #!/bin/sh", b"\xcf\xfa\xed\xfe"] {
            assert_eq!(of(wrong), Err(NoProgram::Unknown), "{}", wrong.escape_ascii());
        }
        let file = FileRef { cid: cid_of(CODEC_RAW, b""), len: PROGRAM_LIMIT + 1 };
        assert_eq!(Native::of(file, b"#!/bin/sh\n"), Err(NoProgram::TooLong(file.len)));
    }

    #[test]
    fn a_machine_is_named_as_rust_names_it() {
        for machine in Machine::ALL {
            assert_eq!(Machine::of_name(machine.name()), Some(machine));
            assert_eq!(serde_json::to_value(machine).unwrap(), machine.name());
        }
        assert!(Machine::of_name(std::env::consts::ARCH).is_some());
    }
}
