"""The values that travel: how arguments and results are written as JSON, and read.

One file for both sides: it is part of this package, and is shipped beside each function into the sandbox, where it
is `ipdc_values`. So it imports nothing but the standard library, and nothing when it is loaded that costs time.

A value is None, bool, int, float, str, bytes, File, or a list, tuple or dict (with texts as keys) of these. What JSON
has stands for itself; the rest is an object with one key that begins with `$`.
"""

import json


class File:
    """A small file as an argument or a result: a name and its bytes.

    `File(path)` reads the file `path`; `File(name, data)` makes one of bytes.
    """

    LIMIT = 32 << 10
    """The longest, in bytes: an item is 64 KiB of text, of which base64 takes four thirds of this, and the other
    arguments have the rest."""

    def __init__(self, path, data=None):
        text = str(path)
        self.name = text.replace("\\", "/").rpartition("/")[2]
        if data is None:
            with open(text, "rb") as file:
                data = file.read(self.LIMIT + 1)
        if len(data) > self.LIMIT:
            raise NotImplementedError(
                f"{self.name} is longer than {self.LIMIT} bytes, and a file travels inside its item: code in the"
                " sandbox cannot read a file by its CID yet. Cut it, or make a job directory of kind cl whose"
                " `items` is a directory (docs/items.md)"
            )
        self.data = bytes(data)

    def read(self):
        """Its bytes."""
        return self.data

    def text(self):
        """Its text, as UTF-8."""
        return self.data.decode()

    def save(self, path):
        """Writes it to the file `path`. Not in the sandbox, which has nothing to write to."""
        with open(path, "wb") as file:
            file.write(self.data)

    def __eq__(self, other):
        return isinstance(other, File) and (self.name, self.data) == (other.name, other.data)

    def __hash__(self):
        return hash((self.name, self.data))

    def __repr__(self):
        return f"File({self.name!r}, {len(self.data)} bytes)"


def encode(value):
    """The value as JSON. TypeError, which names the place, when something in it does not travel."""
    return json.dumps(_plain(value, "the value"), separators=(",", ":"))


def encode_call(args, kwargs):
    """The arguments of a call as JSON."""
    plain = [_plain(arg, f"argument {n}") for n, arg in enumerate(args, 1)]
    named = [[name, _plain(arg, f"argument `{name}`")] for name, arg in kwargs.items()]
    return json.dumps([plain, named], separators=(",", ":"))


def decode(text):
    """The value that `encode` wrote."""
    return _value(json.loads(text))


def decode_call(text):
    """The arguments that `encode_call` wrote: a list, and a dict."""
    plain, named = json.loads(text)
    return [_value(arg) for arg in plain], {name: _value(arg) for name, arg in named}


def _plain(value, where):
    kind = type(value)
    if value is None or kind in (bool, int, float, str):
        return value
    if kind is bytes:
        return {"$bytes": _base64(value)}
    if kind is File:
        return {"$file": [value.name, _base64(value.data)]}
    if kind in (list, tuple):
        plain = [_plain(part, f"{where}[{n}]") for n, part in enumerate(value)]
        return plain if kind is list else {"$tuple": plain}
    if kind is dict:
        for key in value:
            if type(key) is not str:
                raise TypeError(f"{where} is a dict with the key {key!r}; expected keys that are str")
        plain = {key: _plain(part, f"{where}[{key!r}]") for key, part in value.items()}
        # A dict that looks like one of ours.
        return {"$dict": plain} if len(plain) == 1 and next(iter(plain)).startswith("$") else plain
    raise TypeError(
        f"{where} is of type {kind.__module__}.{kind.__qualname__}; expected None, bool, int, float, str, bytes, File,"
        " or a list, tuple or dict of these"
    )


def _value(plain):
    if type(plain) is list:
        return [_value(part) for part in plain]
    if type(plain) is not dict:
        return plain
    if len(plain) == 1:
        ((key, given),) = plain.items()
        if key == "$bytes":
            return _bytes(given)
        if key == "$file":
            return File(given[0], _bytes(given[1]))
        if key == "$tuple":
            return tuple(_value(part) for part in given)
        if key == "$dict":
            plain = given
    return {key: _value(part) for key, part in plain.items()}


def _base64(data):
    import binascii

    return binascii.b2a_base64(data, newline=False).decode()


def _bytes(text):
    import binascii

    return binascii.a2b_base64(text)
