"""Runs one function of the user's over what comes on stdin, and writes what it gives to stdout.

    python -c GLUE FUNCTION MAIN IPDC

MAIN is the file with the function, below /code; IPDC the source of the module `ipdc`. What comes are
lines, or, for `combine` and `reduce`, lines of a key, a tab and a value, sorted by key; for `run`, one
item. What goes out are lines of a key, a tab and a value.

A run costs what is imported here, so that is little. The loops are pulled through C where they can
be: a comprehension, `map`, `join`. Bytes that are no UTF-8 come through as they are.
"""

import gc
import posix
import sys
from itertools import chain, groupby, islice
from operator import itemgetter

CODE = "/code/"

# Bytes that are read at once: some thousand lines, which are a few times as long in memory.
PIECE = 256 << 10

# Records that are written at once, at first and at most: so many that each costs little, so few that large
# ones have room. While they are short their number doubles.
RECORDS = 16, 4096
SHORT = 128 << 10


def text_of(data):
    return data.decode("utf-8", "surrogateescape")


def bytes_of(text):
    return text.encode("utf-8", "surrogateescape")


def lines():
    """The lines of stdin, without their ends, in lists."""
    begun = []
    while piece := posix.read(0, PIECE):
        whole, newline, rest = piece.rpartition(b"\n")
        if newline:
            begun.append(whole)
            yield text_of(b"".join(begun)).split("\n")
            begun.clear()
        if rest:
            begun.append(rest)
    if begun:
        yield [text_of(b"".join(begun))]


def write(data):
    while data:
        data = data[posix.write(1, data) :]


def write_records(records):
    most, limit = RECORDS
    while batch := list(islice(records, most)):
        data = packed(batch)
        write(data)
        if len(data) < SHORT:
            most = min(2 * most, limit)
        else:
            most = max(most // 2, 1)


def packed(batch):
    """The lines of some records: by the shortest way for keys that are texts and values that are whole
    numbers, or texts; one by one for others, and where something is wrong."""
    try:
        return packed_numbers(batch)
    except (TypeError, ValueError, IndexError):
        return bytes_of("".join([line_of(record) for record in batch]))


def packed_numbers(batch):
    keys = [key for key, _ in batch]
    values = list(map(itemgetter(1), batch))
    # Nothing but whole numbers has a sum that is one.
    if type(sum(values)) is not int:
        raise TypeError
    different = {value: f"\t{value:d}\n" for value in set(values)}
    if len(different) == 1:
        (end,) = different.values()
        text = end.join(keys) + end
    else:
        text = "".join([key + different[value] for key, value in zip(keys, values)])
    if not text.count("\n") == text.count("\t") == len(batch):
        raise ValueError
    return bytes_of(text)


def line_of(record):
    if type(record) not in (tuple, list) or len(record) != 2:
        raise TypeError(f"gave {shown(record)}; expected a key and a value")
    key, value = field(record[0], "key"), field(record[1], "value")
    if "\t" in key or "\n" in key:
        raise ValueError(f"gave the key {shown(key)}; a key has no tab and no newline")
    if "\n" in value:
        raise ValueError(f"gave the value {shown(value)} for {shown(key)}; a value has no newline")
    return f"{key}\t{value}\n"


def field(value, what):
    if isinstance(value, str):
        return value
    if isinstance(value, (bytes, bytearray)):
        return text_of(value)
    if isinstance(value, int):
        return f"{value:d}"
    if isinstance(value, float):
        return repr(value)
    raise TypeError(f"gave {shown(value)} as a {what}; expected str, bytes, int or float")


def shown(value):
    return cut(repr(value), 100)


def cut(text, most):
    return text if len(text) <= most else text[:most] + "…"


def mapped(function):
    """What `map` gives for each line: an iterable of records, or None."""
    return chain.from_iterable(filter(None, map(function, chain.from_iterable(lines()))))


def grouped(function):
    """What `combine` or `reduce` gives for each key: records, values for the key, or one of these."""
    fields = (line.partition("\t") for line in chain.from_iterable(lines()))
    for key, group in groupby(fields, itemgetter(0)):
        given = function(key, map(itemgetter(2), group))
        if given is None:
            continue
        if isinstance(given, (str, bytes, bytearray, int, float, tuple)):
            given = (given,)
        for one in given:
            yield one if isinstance(one, tuple) else (key, one)


def write_answer(answer):
    """What `run` gives for its item: bytes or a text as they are, anything else as JSON."""
    if isinstance(answer, str):
        answer = bytes_of(answer)
    elif answer is not None and not isinstance(answer, (bytes, bytearray)):
        import json

        answer = json.dumps(answer).encode()
    write(answer or b"")


def call(function, name):
    if name == "map":
        write_records(mapped(function))
    elif name == "run":
        item = b"".join(iter(lambda: posix.read(0, PIECE), b""))
        write_answer(function(text_of(item)))
    else:
        write_records(grouped(function))


def load(name, path, source):
    """Runs `source` as the module `name`."""
    module = type(sys)(name)
    module.__file__ = path
    sys.modules[name] = module
    exec(compile(source, path, "exec", dont_inherit=True), vars(module))
    return module


def user_function(name, main):
    folder, _, file = main.rpartition("/")
    sys.path[:0] = [CODE + folder, CODE] if folder else [CODE]
    with open(CODE + main, "rb") as source:
        module = load(file.removesuffix(".py"), CODE + main, source.read())
    function = getattr(module, name, None)
    if not callable(function):
        raise AttributeError(f"there is no function `{name}`; expected `def {name}(…)`")
    return function


def explain(error, name, main):
    """What the user is told of an error: its whole traceback in the log, and one line."""
    import traceback

    said = traceback.TracebackException.from_exception(error)
    frames = list(said.stack)
    for part in parts(said):
        part.stack[:] = [frame for frame in part.stack if frame.filename != "<string>"]
    sys.stderr.write("".join(said.format()).replace(f'"{CODE}', '"'))
    what = "".join(said.format_exception_only()).strip().rpartition("\n")[2]
    if isinstance(error, SyntaxError) and error.filename:
        where = f"{error.filename}:{error.lineno}: "
    elif mine := [frame for frame in frames if frame.filename.startswith(CODE)]:
        where = f"{mine[-1].filename}:{mine[-1].lineno}: in {mine[-1].name}: "
    else:
        where = f"{main}: in {name}: "
    return where.removeprefix(CODE) + cut(what, 200) + hint(error, frames)


def parts(said):
    """A traceback and those of what it came from."""
    while said is not None:
        yield said
        said = said.__cause__ or said.__context__


# What the sandbox lacks, by what its absence looks like: the end of a file that the error comes through, or
# a part of what it says.
LACKS = (
    ("no threads", ("/threading.py", "can't start new thread")),
    ("no processes", ("/subprocess.py", "/multiprocessing/", "'fork'", "'system'", "'popen'")),
    ("no network", ("/socket.py", "/ssl.py", "_socket", "socketpair")),
    (
        "no packages: this Python's standard library, as far as it has one, and the .py files of the job",
        ("No module named",),
    ),
    ("no files but those of the job: side files in /job, to be read", ("[Errno 44]", "[Errno 69]", "[Errno 76]")),
    ("no more memory: `limits.memory` in job.toml", ("MemoryError",)),
)


def hint(error, frames):
    signs = [frame.filename + "\n" for frame in frames if not frame.filename.startswith(CODE)]
    signs.append(f"{type(error).__name__}: {error}")
    for lack, marks in LACKS:
        if any(mark in sign for sign in signs for mark in marks):
            return f" (the sandbox has {lack})"
    return ""


def main():
    name, path, ipdc = sys.argv[1:]
    # Records are many and short-lived: as often as it would otherwise, looking for cycles among them costs a third.
    gc.set_threshold(100_000)
    # Stdout is for records.
    sys.stdout = sys.stderr
    sys.argv[:] = [path]
    ipdc = load("ipdc", "<string>", ipdc)
    try:
        call(user_function(name, path), name)
    except BaseException as error:
        ipdc._ask("fail", message=explain(error, name, path))


main()
