"""What travels, and what does not."""

import tempfile
import unittest
from pathlib import Path

from ipdc import File
from ipdc._values import decode, decode_call, encode, encode_call


def nothing(*_):
    raise AssertionError("no file here is long")


class Values(unittest.TestCase):
    def test_each_type_comes_back_as_it_was(self):
        nan_is_not_itself = [float("inf"), -0.0, 1e308]
        values = [
            None, True, False, 0, -1, 2**70, 1.5, "", "ä\n\ud800", b"", bytes(range(256)), [], [1, [2]], {}, {"a": {"b": 1}},
            (), (1, "a", (b"x",)), {"$bytes": "no"}, {"$dict": {"$tuple": 1}}, File("a/b.txt", b"\0"), nan_is_not_itself,
        ]  # fmt: skip
        for value in values:
            back = decode(encode(value, nothing), nothing)
            self.assertEqual(back, value)
            self.assertIs(type(back), type(value))

    def test_a_call_keeps_its_positions_and_names(self):
        args, kwargs = decode_call(encode_call((1, b"x"), {"self": 2, "$bytes": "a"}, nothing), nothing)
        self.assertEqual((args, kwargs), ([1, b"x"], {"self": 2, "$bytes": "a"}))

    def test_what_does_not_travel_is_named_with_its_place(self):
        for value, place in [
            ({1}, "argument 1 is of type builtins.set"),
            ([1, [object()]], r"argument 1\[1\]\[0\] is of type builtins.object"),
            ({"a": 1j}, r"argument 1\['a'\] is of type builtins.complex"),
            ({1: 2}, "dict with the key 1"),
            (Path("x"), "argument 1 is of type pathlib"),
        ]:
            with self.assertRaisesRegex(TypeError, place):
                encode_call((value,), {}, nothing)
        with self.assertRaisesRegex(TypeError, "argument `b`"):
            encode_call((), {"b": object()}, nothing)

    def test_a_file_is_read_when_it_is_named_and_can_be_saved(self):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "in.txt")
            path.write_bytes(b"text")
            file = File(path)
            self.assertEqual((file.name, file.read(), file.text()), ("in.txt", b"text", "text"))
            file.save(Path(folder, "out.txt"))
            self.assertEqual(Path(folder, "out.txt").read_bytes(), b"text")

    def test_a_file_that_is_not_there_is_told_when_it_is_named(self):
        with self.assertRaises(FileNotFoundError):
            File("/no/such/file")

    def test_a_long_file_is_kept_elsewhere_and_found_again(self):
        long = File("x", bytes(File.INLINE + 1))
        kept = {}

        def keep(file):
            kept["cid"] = file
            return {"cid": "cid", "bytes": file.size}

        text = encode([long, File("y", bytes(File.INLINE))], keep)
        self.assertIn('"$file":["x",{"cid":"cid","bytes":8193}]', text)
        self.assertEqual(kept, {"cid": long})
        back = decode(text, lambda name, block: File._of_block(name, block, copy=lambda to: to.write(long.read())))
        self.assertEqual((back[0], back[0].size), (long, 8193))
        self.assertEqual(encode(back[0], lambda file: file._block), '{"$file":["x",{"cid":"cid","bytes":8193}]}')
