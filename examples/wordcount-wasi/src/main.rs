//! Counts words: what is between ASCII white space. An ordinary program: text on stdin, a line
//! `word<TAB>1` for each word on stdout.

use std::io::{self, BufRead, BufWriter, Write};

/// Bytes gathered before they are written: a call of the host each.
const BUFFER: usize = 64 << 10;

fn main() -> io::Result<()> {
    let mut input = io::stdin().lock();
    let mut output = BufWriter::with_capacity(BUFFER, io::stdout().lock());
    let mut line = Vec::new();
    while input.read_until(b'\n', &mut line)? > 0 {
        let is_space = |byte: &u8| matches!(byte, 9..=13 | 32);
        for word in line.split(is_space).filter(|word| !word.is_empty()) {
            output.write_all(word)?;
            output.write_all(b"\t1\n")?;
        }
        line.clear();
    }
    output.flush()
}
