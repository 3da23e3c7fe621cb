//! The shuffle: which partition a key belongs to, and what a task leaves for those after it.

use bytes::Bytes;

use crate::ids::{Cid, FileRef, PeerId};
use crate::kind::{FileWriter, Host, Lasting, TaskError};
use crate::message::{INLINE_LIMIT, Input, Payload};

use super::bad::Skipped;
use super::error;
use super::run::{read_length, read_number, width_of, write_number};

/// The version of [`MapOutput`]'s written form.
const VERSION: u8 = 2;

/// The longest binary CID that is read: what the swarm makes has 36 bytes.
const CID_LIMIT: usize = 64;

/// The partition of `key`, of `partitions`.
///
/// FNV-1a in 64 bits over the key's bytes, then the finalizer of MurmurHash3 (FNV's low bits alone
/// are weak), modulo `partitions`. Part of what determines a result: it never changes, and it
/// depends on neither platform nor version nor the number of workers.
#[inline]
pub(super) fn partition(key: &[u8], partitions: u32) -> u32 {
    let fnv = key.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let mixed = (fnv ^ (fnv >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let mixed = (mixed ^ (mixed >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    ((mixed ^ (mixed >> 33)) % u64::from(partitions)) as u32
}

/// Which partition a key goes to.
pub(super) enum Partitioner {
    /// Of so many, by a hash of the key.
    Hash(u32),
    /// By the key's place among these, the first keys of each partition but the first.
    Range(Vec<Bytes>),
}

impl Partitioner {
    /// How many partitions there are.
    pub(super) fn count(&self) -> u32 {
        match self {
            Partitioner::Hash(partitions) => *partitions,
            Partitioner::Range(boundaries) => {
                u32::try_from(boundaries.len() + 1).expect("partitions are counted in a u32")
            }
        }
    }

    /// The partition of `key`.
    #[inline]
    pub(super) fn of(&self, key: &[u8]) -> u32 {
        match self {
            Partitioner::Hash(partitions) => partition(key, *partitions),
            Partitioner::Range(boundaries) => {
                boundaries.partition_point(|boundary| &boundary[..] <= key) as u32
            }
        }
    }
}

/// What a map task leaves: a sorted run for each partition, and the records that are in none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MapOutput {
    pub(super) runs: Vec<Run>,
    pub(super) skipped: Vec<Skipped>,
}

/// The records of one map task for one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Run {
    /// No record.
    Empty,
    /// The run itself.
    Inline(Bytes),
    /// The file that is the run, and the run's width.
    File(FileRef, u64),
}

impl MapOutput {
    /// `[version][number of runs]`, then for each run its tag and what belongs to it; the numbers
    /// as LEB128. After that, if any were, the skipped records in JSON.
    pub(super) fn encode(&self) -> Bytes {
        let mut text = vec![VERSION];
        write_number(&mut text, self.runs.len() as u64);
        for run in &self.runs {
            match run {
                Run::Empty => text.push(0),
                Run::Inline(bytes) => {
                    text.push(1);
                    write_number(&mut text, bytes.len() as u64);
                    text.extend_from_slice(bytes);
                }
                Run::File(file, width) => {
                    text.push(if *width == 0 { 2 } else { 3 });
                    let cid = file.cid.to_bytes();
                    write_number(&mut text, cid.len() as u64);
                    text.extend_from_slice(&cid);
                    write_number(&mut text, file.len);
                    if *width > 0 {
                        write_number(&mut text, *width);
                    }
                }
            }
        }
        if !self.skipped.is_empty() {
            text.extend(
                serde_json::to_vec(&self.skipped).expect("a list of texts and numbers encodes"),
            );
        }
        text.into()
    }

    /// What [`MapOutput::encode`] wrote; none for anything else.
    pub(super) fn decode(text: &Bytes) -> Option<Self> {
        let mut rest: &[u8] = text;
        let (&version, after) = rest.split_first()?;
        rest = after;
        let count = read_length(&mut rest)?;
        // A run takes a byte at least, so a made-up count allocates no more than was sent.
        if version != VERSION || count > rest.len() {
            return None;
        }
        let mut runs = Vec::with_capacity(count);
        for _ in 0..count {
            let (&tag, after) = rest.split_first()?;
            rest = after;
            runs.push(match tag {
                0 => Run::Empty,
                1 => {
                    let len = read_length(&mut rest)?;
                    let (run, after) = rest.split_at_checked(len)?;
                    rest = after;
                    Run::Inline(text.slice_ref(run))
                }
                2 | 3 => {
                    let len = read_length(&mut rest).filter(|len| *len <= CID_LIMIT)?;
                    let (cid, after) = rest.split_at_checked(len)?;
                    rest = after;
                    let cid = Cid::try_from(cid).ok()?;
                    let file = FileRef { cid, len: read_number(&mut rest)? };
                    Run::File(file, if tag == 2 { 0 } else { read_number(&mut rest)? })
                }
                _ => return None,
            });
        }
        let skipped =
            if rest.is_empty() { Vec::new() } else { serde_json::from_slice(rest).ok()? };
        Some(MapOutput { runs, skipped })
    }
}

/// The one run of `partition` out of a map task's output, and for the first what was skipped, if it
/// travels inline; else the whole,
/// from whose file the reduce task picks by itself.
pub(super) fn pick(partition: u32, output: &Payload) -> Payload {
    let Payload::Inline(text) = output else {
        return output.clone();
    };
    let picked = MapOutput::decode(text).and_then(|output| {
        let run = output.runs.into_iter().nth(partition as usize)?;
        let skipped = if partition == 0 { output.skipped } else { Vec::new() };
        Some(MapOutput { runs: vec![run], skipped })
    });
    match picked {
        Some(picked) => Payload::Inline(picked.encode()),
        // The reduce task will say what is wrong with it.
        None => output.clone(),
    }
}

/// Writes a map task's runs, partition after partition: inline while all of them together fit a
/// message, else each as a file of its own, so that a reducer fetches nothing but what it needs.
pub(super) struct RunsWriter<'a> {
    host: &'a dyn Host,
    done: Vec<Run>,
    /// The run being written, while all are inline.
    inline: Vec<u8>,
    inline_total: usize,
    in_files: bool,
    file: Option<Box<dyn FileWriter>>,
}

impl<'a> RunsWriter<'a> {
    pub(super) fn new(host: &'a dyn Host) -> Self {
        RunsWriter {
            host,
            done: Vec::new(),
            inline: Vec::new(),
            inline_total: 0,
            in_files: false,
            file: None,
        }
    }

    /// How many runs have ended: the partition that is being written.
    pub(super) fn partition(&self) -> u32 {
        u32::try_from(self.done.len()).expect("partitions are counted in a u32")
    }

    /// Appends to the run of the current partition.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), TaskError> {
        self.inline_total += bytes.len();
        if !self.in_files && self.inline_total > INLINE_LIMIT {
            self.in_files = true;
            for run in &mut self.done {
                if let Run::Inline(bytes) = run {
                    let mut file = self.host.create(Lasting::Scratch)?;
                    file.write(bytes)?;
                    *run = Run::File(file.finish()?, width_of(bytes));
                }
            }
            let begun = std::mem::take(&mut self.inline);
            if !begun.is_empty() {
                self.write_file(&begun)?;
            }
        }
        if self.in_files {
            self.write_file(bytes)
        } else {
            self.inline.extend_from_slice(bytes);
            Ok(())
        }
    }

    fn write_file(&mut self, bytes: &[u8]) -> Result<(), TaskError> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(self.host.create(Lasting::Scratch)?),
        };
        file.write(bytes)
    }

    /// Ends the current partition's run, which has this width.
    pub(super) fn end_run(&mut self, width: u64) -> Result<(), TaskError> {
        let run = if let Some(file) = self.file.take() {
            Run::File(file.finish()?, width)
        } else if self.inline.is_empty() {
            Run::Empty
        } else {
            Run::Inline(std::mem::take(&mut self.inline).into())
        };
        self.done.push(run);
        Ok(())
    }

    /// The map task's output; every run has ended.
    pub(super) fn finish(self, skipped: Vec<Skipped>) -> Result<Payload, TaskError> {
        let text = MapOutput { runs: self.done, skipped }.encode();
        if text.len() <= INLINE_LIMIT {
            return Ok(Payload::Inline(text));
        }
        let mut file = self.host.create(Lasting::Scratch)?;
        file.write(&text)?;
        Ok(Payload::File(file.finish()?))
    }
}

/// What a task's output says, which may lie in a file; at most `limit` bytes. Where the file is gone,
/// the error says whose it was.
pub(super) fn read(input: &Input, limit: usize, host: &dyn Host) -> Result<Bytes, TaskError> {
    match &input.payload {
        Payload::Inline(text) => Ok(text.clone()),
        Payload::File(file) => {
            read_file(file, &input.holders, limit, host).map_err(|error| match error {
                TaskError::Missing { file, message, .. } => {
                    TaskError::Missing { file, task: Some(input.task), message }
                }
                other => other,
            })
        }
    }
}

fn read_file(
    file: &FileRef,
    holders: &[PeerId],
    limit: usize,
    host: &dyn Host,
) -> Result<Bytes, TaskError> {
    let len = usize::try_from(file.len).unwrap_or(usize::MAX).min(limit);
    let mut text = Vec::with_capacity(len);
    let mut bytes = host.open(file, holders)?;
    while text.len() < len {
        let read = bytes
            .read_at(text.len() as u64, len - text.len())
            .map_err(|error| TaskError::of_read(file, error))?;
        if read.is_empty() {
            return Err(error::corrupt("a task's output"));
        }
        text.extend_from_slice(&read);
    }
    Ok(text.into())
}

/// The run of `partition` in a map task's output, as a reduce task got it, and what was skipped;
/// `whole` when the output was not picked apart before.
pub(super) fn run_of(
    text: &Bytes,
    partition: u32,
    whole: bool,
) -> Result<(Run, Vec<Skipped>), TaskError> {
    let index = if whole { partition as usize } else { 0 };
    let corrupt = || error::corrupt("a map task's output");
    let output = MapOutput::decode(text).ok_or_else(corrupt)?;
    let run = output.runs.into_iter().nth(index).ok_or_else(corrupt)?;
    Ok((run, output.skipped))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::ids::{CODEC_RAW, cid_of};

    fn output() -> MapOutput {
        let file = FileRef { cid: cid_of(CODEC_RAW, b"x"), len: 1 << 40 };
        MapOutput {
            runs: vec![
                Run::Empty,
                Run::Inline(Bytes::from_static(b"run")),
                Run::File(file, 0),
                Run::File(file, 1 << 30),
            ],
            skipped: Vec::new(),
        }
    }

    #[test]
    fn partitions_are_for_ever() {
        // Changing one of these changes every result there is.
        let partitions = ["", "a", "the", "Wörter"].map(|key| partition(key.as_bytes(), 1000));
        assert_eq!(partitions, [342, 315, 849, 165]);
    }

    #[test]
    fn ranges_begin_at_their_boundaries() {
        let boundaries = ["b", "d", "d"].map(|key| Bytes::from_static(key.as_bytes()));
        let ranges = Partitioner::Range(boundaries.into());
        assert_eq!(ranges.count(), 4);
        let partitions = ["", "a", "b", "c", "cz", "d", "e"].map(|key| ranges.of(key.as_bytes()));
        assert_eq!(partitions, [0, 0, 1, 1, 1, 3, 3]);
    }

    #[test]
    fn keys_spread_evenly_over_any_number_of_partitions() {
        for partitions in [2_u32, 3, 4, 7, 16, 64] {
            let mut counts = vec![0_u32; partitions as usize];
            for n in 0..64_000_u32 {
                counts[partition(format!("key{n}").as_bytes(), partitions) as usize] += 1;
            }
            let fair = 64_000 / partitions;
            assert!(counts.iter().all(|&n| n.abs_diff(fair) < fair / 4), "{counts:?}");
        }
    }

    #[test]
    fn an_output_reads_back_and_nothing_shorter_does() {
        let text = output().encode();
        assert_eq!(MapOutput::decode(&text), Some(output()));
        for cut in 0..text.len() {
            assert_eq!(MapOutput::decode(&text.slice(..cut)), None, "cut at {cut}");
        }
    }

    #[test]
    fn a_reducer_gets_its_own_run_only() {
        let whole = Payload::Inline(output().encode());
        for (partition, expected) in (0..).zip(output().runs) {
            let Payload::Inline(picked) = pick(partition, &whole) else { unreachable!() };
            assert_eq!(run_of(&picked, partition, false).unwrap().0, expected);
        }
    }
}
