//! Key groups for a command: `key<TAB>value` lines on its stdin, records in key order.
//!
//! A command runs for many groups at once, as many as fill [`BATCH`] bytes, whole groups only; then
//! it runs anew for the next. Where a run ends depends on the records alone, so a command that
//! minds it still gives the same whatever the memory and whoever runs it.

use crate::kind::{Guest, TaskError};

use super::error;
use super::group::{Emit, Function};
use crate::record::Records;

/// Bytes of lines for one run, about: so many that starting a command costs nothing, so few that a
/// phone holds them.
const BATCH: usize = 1 << 20;

/// A command and the groups that it is run with next.
pub(super) struct CommandGroups {
    command: Box<dyn Guest>,
    function: Function,
    /// Lines of whole groups, then of the group that is coming.
    lines: Vec<u8>,
    /// Where the group that is coming begins.
    begun: usize,
    /// Bytes that a group may have.
    limit: usize,
}

impl CommandGroups {
    /// Runs of `command`, with groups of at most `limit` bytes.
    pub(super) fn new(command: Box<dyn Guest>, function: Function, limit: usize) -> Self {
        CommandGroups { command, function, lines: Vec::new(), begun: 0, limit }
    }

    pub(super) fn add(&mut self, key: &[u8], value: &[u8]) -> Result<(), TaskError> {
        let breaks_line = |byte: &u8| *byte == b'\n';
        if key.iter().any(|byte| breaks_line(byte) || *byte == b'\t')
            || value.iter().any(breaks_line)
        {
            return Err(error::no_line(key));
        }
        if self.lines.len() - self.begun + key.len() + value.len() + 2 > self.limit {
            return Err(error::group_too_large(key, self.limit));
        }
        self.lines.extend_from_slice(key);
        self.lines.push(b'\t');
        self.lines.extend_from_slice(value);
        self.lines.push(b'\n');
        Ok(())
    }

    /// Ends a group.
    pub(super) fn end_group(&mut self, emit: &mut Emit<'_>) -> Result<(), TaskError> {
        self.begun = self.lines.len();
        if self.lines.len() < BATCH { Ok(()) } else { self.end(emit) }
    }

    /// Runs the command for what there is.
    pub(super) fn end(&mut self, emit: &mut Emit<'_>) -> Result<(), TaskError> {
        if self.lines.is_empty() {
            return Ok(());
        }
        let CommandGroups { command, function, lines, .. } = self;
        let mut keys = Keys { rest: lines };
        command.call(function.name(), lines, &mut |frame| {
            for record in Records::new(frame) {
                let (key, value) = record?;
                if *function == Function::Combine && !keys.goes_on_to(key) {
                    return Err(error::unsorted_key(key));
                }
                emit(key, value)?;
            }
            Ok(())
        })?;
        self.lines.clear();
        self.begun = 0;
        Ok(())
    }
}

/// The keys of lines, looked through once.
struct Keys<'a> {
    rest: &'a [u8],
}

impl Keys<'_> {
    /// Goes to the first line left that has this key; whether there is one.
    fn goes_on_to(&mut self, key: &[u8]) -> bool {
        while !self.rest.is_empty() {
            if self.rest.strip_prefix(key).is_some_and(|rest| rest.first() == Some(&b'\t')) {
                return true;
            }
            let end = memchr::memchr(b'\n', self.rest).map_or(self.rest.len(), |at| at + 1);
            self.rest = &self.rest[end..];
        }
        false
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::super::group::{Grouper, GuestGroup, How};
    use super::*;
    use crate::kind::Form;
    use crate::record;

    /// Emits each line it gets under `key`, or its own key; notes each input.
    #[derive(Clone, Default)]
    struct Fake {
        key: Option<&'static [u8]>,
        runs: Rc<RefCell<Vec<Vec<u8>>>>,
    }

    impl Guest for Fake {
        fn call(
            &mut self,
            _: &str,
            input: &[u8],
            sink: &mut dyn FnMut(&[u8]) -> Result<(), TaskError>,
        ) -> Result<(), TaskError> {
            self.runs.borrow_mut().push(input.to_vec());
            for line in input.split_inclusive(|&byte| byte == b'\n') {
                let key = line.split(|&byte| byte == b'\t').next().unwrap();
                let mut frame = Vec::new();
                record::write(&mut frame, self.key.unwrap_or(key), b"1");
                sink(&frame)?;
            }
            Ok(())
        }

        fn form(&self) -> Form {
            Form::Command
        }
    }

    /// What comes out of `records` grouped by `fake`.
    fn grouped(
        fake: &Fake,
        function: Function,
        limit: usize,
        records: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>,
    ) -> Result<Vec<Vec<u8>>, &'static str> {
        let group = GuestGroup::new(Box::new(fake.clone()), function, limit);
        let mut grouper = Grouper::new(How::Guest(group));
        let mut keys = Vec::new();
        let mut emit = |key: &[u8], _: &[u8]| {
            keys.push(key.to_vec());
            Ok(())
        };
        let mut added = records.into_iter().try_for_each(|(k, v)| grouper.add(&k, &v, &mut emit));
        added = added.and_then(|()| grouper.end(&mut emit));
        match added {
            Ok(()) => Ok(keys),
            Err(TaskError::Failed { code, .. }) => Err(code),
            Err(other) => panic!("{other}"),
        }
    }

    fn records(of: &[(&str, &str)]) -> Vec<(Vec<u8>, Vec<u8>)> {
        of.iter().map(|(key, value)| (key.as_bytes().to_vec(), value.as_bytes().to_vec())).collect()
    }

    #[test]
    fn a_run_gets_whole_groups_and_about_a_batch_of_them() {
        let fake = Fake::default();
        let many =
            (0..100_000).map(|n| (format!("{:06}", n / 30_000 * 7).into_bytes(), vec![b'v'; 20]));
        let keys = grouped(&fake, Function::Combine, usize::MAX, many).unwrap();
        assert_eq!(keys.len(), 100_000);
        assert!(keys.is_sorted());
        let runs = fake.runs.borrow();
        let lines: Vec<_> = runs.iter().map(|run| run.split(|&b| b == b'\n').count() - 1).collect();
        // 28 bytes a line: the first batch is full within the second group.
        assert_eq!(lines, [60_000, 40_000]);
    }

    #[test]
    fn only_what_is_a_line_goes_to_a_command() {
        for wrong in [("a\tb", "v"), ("a\nb", "v"), ("a", "v\n")] {
            let ended = grouped(&Fake::default(), Function::Reduce, 99, records(&[wrong]));
            assert_eq!(ended, Err("IPDC-5380"), "{wrong:?}");
        }
        assert!(grouped(&Fake::default(), Function::Reduce, 99, records(&[("", "a\tb")])).is_ok());
    }

    #[test]
    fn a_combining_command_keeps_to_its_keys_and_their_order() {
        let input = records(&[("a", "1"), ("ab", "1"), ("b", "1")]);
        for (key, function, expected) in [
            (&b"b"[..], Function::Combine, true),
            (b"ba", Function::Combine, false),
            (b"", Function::Combine, false),
            (b"ba", Function::Reduce, true),
        ] {
            let fake = Fake { key: Some(key), ..Fake::default() };
            let ended = grouped(&fake, function, 99, input.clone());
            assert_eq!(ended.is_ok(), expected, "{key:?} {function:?} {ended:?}");
        }
    }

    #[test]
    fn a_group_over_the_limit_is_refused_and_many_small_ones_are_not() {
        let small = (0..100_u8).map(|n| (vec![n + 20], vec![b'v'; 20]));
        assert!(grouped(&Fake::default(), Function::Reduce, 40, small).is_ok());
        let large = records(&[("k", "12345678901234567890"), ("k", "12345678901234567890")]);
        assert_eq!(grouped(&Fake::default(), Function::Reduce, 40, large), Err("IPDC-5355"));
    }
}
