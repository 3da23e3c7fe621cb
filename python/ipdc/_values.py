"""The values that travel: how arguments and results are written as JSON, and read.

One file for both sides: it is part of this package, and is shipped beside each function into the sandbox, where it
is `ipdc_values`. So it imports nothing but the standard library, and nothing when it is loaded that costs time.

A value is None, bool, int, float, str, bytes, File, or a list, tuple or dict (with texts as keys) of these. What JSON
has stands for itself; the rest is an object with one key that begins with `$`.
"""

import io
import json


class File:
    """A file as an argument or a result: a name and its bytes.

    `File(path)` is the file at `path`, which is read when it is sent; `File(name, data)` is one of bytes. Short ones
    travel inside their value, others as blocks of the swarm, read where they are needed.
    """

    INLINE = 8 << 10
    """The longest that travels inside its value, in bytes: several fit an item of 64 KiB."""

    def __init__(self, path, data=None):
        text = str(path)
        self.name = text.replace("\\", "/").rpartition("/")[2]
        # Where its bytes are: here, in a file, or what copies them to a file.
        self._data = None if data is None else bytes(data)
        self._path = text if data is None else None
        self._copy = None
        # How it is known in the swarm, once it is: its `cid` and `bytes`.
        self._block = None
        if data is None:
            open(text, "rb").close()

    @classmethod
    def _of_block(cls, name, block, copy=None, path=None):
        """A file of the swarm, whose bytes `copy` writes to a file, or which lies at `path`."""
        file = cls(name, b"")
        file._data, file._block, file._copy, file._path = None, block, copy, path
        return file

    @property
    def _is_here(self):
        """Whether it can be read without the swarm."""
        return self._copy is None

    @property
    def size(self):
        """Its length in bytes."""
        if self._data is not None:
            return len(self._data)
        if self._block is not None:
            return self._block["bytes"]
        import os

        return os.stat(self._path).st_size

    def open(self):
        """A binary file to read it from, at its beginning."""
        if self._data is not None:
            return io.BytesIO(self._data)
        if self._path is not None:
            return open(self._path, "rb")
        import tempfile

        file = tempfile.TemporaryFile()
        self._copy(file)
        file.seek(0)
        return file

    def read(self):
        """Its bytes."""
        with self.open() as file:
            return file.read()

    def text(self):
        """Its text, as UTF-8."""
        return self.read().decode()

    def save(self, path):
        """Writes it to the file `path`; in the sandbox, below /out."""
        import shutil

        with self.open() as file, open(path, "wb") as to:
            shutil.copyfileobj(file, to)

    def __eq__(self, other):
        return isinstance(other, File) and self.name == other.name and self.read() == other.read()

    def __hash__(self):
        return hash(self.name)

    def __repr__(self):
        return f"File({self.name!r}, {self.size} bytes)"


def encode(value, keep):
    """The value as JSON. `keep(file)` takes what is too long to be inside, and gives what stands for it. TypeError,
    which names the place, when something in it does not travel."""
    return json.dumps(_plain(value, "the value", keep), separators=(",", ":"))


def encode_call(args, kwargs, keep):
    """The arguments of a call as JSON."""
    plain = [_plain(arg, f"argument {n}", keep) for n, arg in enumerate(args, 1)]
    named = [[name, _plain(arg, f"argument `{name}`", keep)] for name, arg in kwargs.items()]
    return json.dumps([plain, named], separators=(",", ":"))


def decode(text, find):
    """The value that `encode` wrote. `find(name, kept)` gives the file of this name that `keep` gave `kept` for."""
    return _value(json.loads(text), find)


def decode_call(text, find):
    """The arguments that `encode_call` wrote: a list, and a dict."""
    plain, named = json.loads(text)
    return [_value(arg, find) for arg in plain], {name: _value(arg, find) for name, arg in named}


def keep_in_out(file):
    """In the sandbox: what a function gives is written to /out, unless it is there or came by its CID."""
    import os

    if file._block is not None:
        return file._block
    path = file._path
    if path is None or not path.startswith("/out/"):
        taken = len(os.listdir("/out"))
        path = next(path for n in range(taken, 2 * taken + 1) if not os.path.exists(path := f"/out/file-{n}"))
        file.save(path)
    return {"out": path[len("/out/") :], "bytes": file.size}


def find_by_cid(name, kept):
    """In the sandbox: a file by its CID."""
    return File._of_block(name, kept, path="/ipfs/" + kept["cid"])


def _plain(value, where, keep):
    kind = type(value)
    if value is None or kind in (bool, int, float, str):
        return value
    if kind is bytes:
        return {"$bytes": _base64(value)}
    if kind is File:
        short = value._block is None and value.size <= File.INLINE
        return {"$file": [value.name, _base64(value.read()) if short else keep(value)]}
    if kind in (list, tuple):
        plain = [_plain(part, f"{where}[{n}]", keep) for n, part in enumerate(value)]
        return plain if kind is list else {"$tuple": plain}
    if kind is dict:
        for key in value:
            if type(key) is not str:
                raise TypeError(f"{where} is a dict with the key {key!r}; expected keys that are str")
        plain = {key: _plain(part, f"{where}[{key!r}]", keep) for key, part in value.items()}
        # A dict that looks like one of ours.
        return {"$dict": plain} if len(plain) == 1 and next(iter(plain)).startswith("$") else plain
    raise TypeError(
        f"{where} is of type {kind.__module__}.{kind.__qualname__}; expected None, bool, int, float, str, bytes, File,"
        " or a list, tuple or dict of these"
    )


def _value(plain, find):
    if type(plain) is list:
        return [_value(part, find) for part in plain]
    if type(plain) is not dict:
        return plain
    if len(plain) == 1:
        ((key, given),) = plain.items()
        if key == "$bytes":
            return _bytes(given)
        if key == "$file":
            name, kept = given
            return File(name, _bytes(kept)) if type(kept) is str else find(name, kept)
        if key == "$tuple":
            return tuple(_value(part, find) for part in given)
        if key == "$dict":
            plain = given
    return {key: _value(part, find) for key, part in plain.items()}


def _base64(data):
    import binascii

    return binascii.b2a_base64(data, newline=False).decode()


def _bytes(text):
    import binascii

    return binascii.a2b_base64(text)
