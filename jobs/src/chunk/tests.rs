//! The laws of cuts, over files made from a seed.

use proptest::prelude::*;

use super::*;

const KINDS: [RecordKind; 4] =
    [RecordKind::Lines, RecordKind::Paragraph, RecordKind::Csv, RecordKind::Fixed(80)];

/// Lines of a CSV file: some fields in quotes, some of these with quotes and newlines, here and
/// there an empty line.
fn text(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut text = Vec::with_capacity(len + 100);
    while text.len() < len {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let number = state >> 40;
        let line = match number % 11 {
            0 => format!("{number},\"two\nlines, and \"\"quotes\"\"\n\n\",x\r\n"),
            1 => "\r\n".to_owned(),
            2 => "\n".to_owned(),
            _ => format!("{number},{state},words and words\n"),
        };
        text.extend_from_slice(line.as_bytes());
    }
    text.truncate(len);
    text
}

/// Where the chunks of `text` end when it comes in pieces of `lens`, again and again.
fn cuts(text: &[u8], kind: RecordKind, lens: &[usize]) -> Vec<usize> {
    let mut chunker = Chunker::new(kind);
    let (mut at, mut cuts) = (0, Vec::new());
    let mut lens = lens.iter().cycle();
    while at < text.len() {
        let piece = &text[at..text.len().min(at + lens.next().unwrap())];
        let cut = chunker.cut(piece);
        at += cut.unwrap_or(piece.len());
        if cut.is_some() {
            cuts.push(at);
        }
    }
    if cuts.last() != Some(&at) && at > 0 {
        cuts.push(at);
    }
    cuts
}

/// The chunks of `text`.
fn chunks(text: &[u8], kind: RecordKind) -> Vec<&[u8]> {
    let mut start = 0;
    let ends = cuts(text, kind, &[1 << 20]);
    ends.into_iter().map(|end| &text[std::mem::replace(&mut start, end)..end]).collect()
}

/// Where the records of `text` end, one byte after the other.
fn naive_ends(text: &[u8], kind: RecordKind) -> Vec<usize> {
    let mut quoted = false;
    let mut line = 0;
    let mut ends = Vec::new();
    for (at, &byte) in text.iter().enumerate() {
        quoted ^= byte == b'"';
        let is_end = match kind {
            RecordKind::Lines => byte == b'\n',
            RecordKind::Paragraph => byte == b'\n' && matches!(&text[line..at], b"" | b"\r"),
            RecordKind::Csv => byte == b'\n' && !quoted,
            RecordKind::Fixed(len) => (at + 1).is_multiple_of(len as usize),
        };
        if byte == b'\n' {
            line = at + 1;
        }
        if is_end {
            ends.push(at + 1);
        }
    }
    ends
}

#[test]
fn chunks_are_about_four_mebibytes_and_join_to_the_file() {
    let text = text(100 << 20, 1);
    for kind in KINDS {
        let chunks = chunks(&text, kind);
        assert!((23..=30).contains(&chunks.len()), "{kind}: {} chunks", chunks.len());
        assert!(chunks.concat() == text, "{kind}");
        let (last, others) = chunks.split_last().unwrap();
        for chunk in others {
            assert!((MIN..MAX + 200).contains(&(chunk.len() as u64)), "{kind}: {}", chunk.len());
        }
        assert!(last.len() as u64 <= MAX + 200);
    }
}

#[test]
fn every_chunk_ends_a_record() {
    let text = text(30 << 20, 2);
    for kind in KINDS {
        let ends = naive_ends(&text, kind);
        let cuts = cuts(&text, kind, &[1 << 20]);
        for cut in &cuts[..cuts.len() - 1] {
            assert!(ends.binary_search(cut).is_ok(), "{kind}: {cut} is inside a record");
        }
    }
}

#[test]
fn cuts_are_the_same_however_the_bytes_come() {
    let text = text(20 << 20, 3);
    for kind in KINDS {
        let expected = cuts(&text, kind, &[1 << 20]);
        for lens in [&[text.len()][..], &[256 << 10], &[1, 4096, 77_777, 3], &[8191]] {
            assert_eq!(cuts(&text, kind, lens), expected, "{kind} in pieces of {lens:?}");
        }
    }
}

#[test]
fn an_insertion_changes_few_chunks() {
    let before = text(60 << 20, 4);
    let old: std::collections::HashSet<_> =
        chunks(&before, RecordKind::Lines).into_iter().collect();
    for place in [0, 7 << 20, 31 << 20, before.len() - 5] {
        let mut after = before.clone();
        after.splice(place..place, *b"fifty bytes that were not there before, or nearly\n");
        let new = chunks(&after, RecordKind::Lines);
        let changed = new.iter().filter(|chunk| !old.contains(*chunk)).count();
        assert!((1..=3).contains(&changed), "{changed} of {} at {place}", new.len());
    }
}

#[test]
fn an_append_changes_the_last_chunk_only() {
    let before = text(20 << 20, 5);
    let after = [before.clone(), b"\nand more\n".to_vec()].concat();
    let (old, new) =
        (cuts(&before, RecordKind::Lines, &[1 << 20]), cuts(&after, RecordKind::Lines, &[1 << 20]));
    assert_eq!(old[..old.len() - 1], new[..old.len() - 1]);
}

#[test]
fn an_endless_record_is_one_chunk() {
    let mut text = vec![b'x'; 64 << 20];
    text.extend_from_slice(b"\nshort\n");
    assert_eq!(cuts(&text, RecordKind::Lines, &[1 << 20]), [(64 << 20) + 1, (64 << 20) + 7]);
    assert_eq!(cuts(&vec![0; 20 << 20], RecordKind::Fixed(3), &[1 << 20])[0], (8 << 20) + 1);
}

#[test]
fn an_empty_file_has_no_chunks() {
    assert!(cuts(b"", RecordKind::Lines, &[1]).is_empty());
    assert_eq!(cuts(b"x", RecordKind::Lines, &[1]), [1]);
}

#[test]
fn a_cut_that_falls_on_a_records_end_stays_there() {
    // Nothing in it looks like a cut, so it is at the limit.
    let mut text = vec![b'x'; MAX as usize - 1];
    text.extend_from_slice(b"\nrest\n");
    assert_eq!(cuts(&text, RecordKind::Lines, &[1 << 20])[0] as u64, MAX);
}

#[test]
fn a_quoted_newline_ends_no_record_wherever_the_pieces_meet() {
    let text = b"a,\"b\nc\",d\r\n\"x\"\"\n\"\"\",y\n\"\n\n\"\nlast,\"\n";
    let expected = [11, 22, 27];
    assert_eq!(naive_ends(text, RecordKind::Csv), expected);
    for meet in 0..=text.len() {
        let mut scanner = Scanner::new(RecordKind::Csv);
        let mut ends = Vec::new();
        for (start, piece) in [(0, &text[..meet]), (meet, &text[meet..])] {
            let mut at = 0;
            while let Some(end) = scanner.next_end(&piece[at..]) {
                at += end;
                ends.push(start + at);
            }
        }
        assert_eq!(ends, expected, "in two pieces that meet at {meet}");
    }
}

/// Text in which every byte that a scanner looks at is frequent.
fn marks() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(proptest::sample::select(b"a\"\n\r\n".to_vec()), 0..200)
}

proptest! {
    #[test]
    fn a_scanner_finds_the_ends_that_a_naive_look_finds(
        text in marks(),
        kind in proptest::sample::select(
            [KINDS.to_vec(), vec![RecordKind::Fixed(1), RecordKind::Fixed(7)]].concat()),
        meet in 0_usize..200,
    ) {
        let meet = meet.min(text.len());
        let expected = naive_ends(&text, kind);
        let mut scanner = Scanner::new(kind);
        let mut ends = Vec::new();
        for (start, piece) in [(0, &text[..meet]), (meet, &text[meet..])] {
            let last = scanner.last_end(piece).map(|end| start + end);
            let mut at = 0;
            while let Some(end) = scanner.next_end(&piece[at..]) {
                at += end;
                ends.push(start + at);
            }
            prop_assert_eq!(last, ends.last().copied().filter(|&end| end > start));
        }
        prop_assert_eq!(ends, expected);
    }
}
