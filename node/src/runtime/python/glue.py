"""Runs one function of the user's over what comes on stdin, and writes what it gives to stdout.

    python -c GLUE FUNCTION MAIN IPDC ERRORS

MAIN is the file with the function, below /code; IPDC the source of the module `ipdc`, ERRORS that of
what explains an error. What comes are lines, or, for `combine` and `reduce`, lines of a key, a tab and a value, sorted by key; for `run`, one
item; for `producer`, nothing. What goes out are lines of a key, a tab and a value; from `producer`, items.

A run costs what is compiled and imported here, so that is little, and the rest is when it is needed. The loops are pulled through C where they can
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

# Memory that is set aside, in which to explain that there is no more.
RESERVE = 4 << 20


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
    """The lines of some records: in one go where they are of a common form, else one by one, which is ten
    times slower and finds what is wrong."""
    for form in (of_one_value, of_plain_values):
        try:
            return bytes_of(form(batch))
        except (TypeError, ValueError):
            continue
    return bytes_of("".join([line_of(record) for record in batch]))


def of_one_value(batch):
    """All have the same whole number: the 1 of a count, say."""
    _, one = batch[0]
    if type(one) is not int:
        raise TypeError
    keys = [key for key, value in batch if value is one]
    end = f"\t{one:d}\n"
    text = end.join(keys) + end
    # None is in a key, and there are as many keys as records.
    if not text.count("\n") == text.count("\t") == len(batch):
        raise ValueError
    return text


def of_plain_values(batch):
    """All have keys that are texts, and values that are texts or numbers."""
    keys = "".join([key for key, _ in batch])
    kinds = set(map(type, [value for _, value in batch]))
    if set(map(type, batch)) != {tuple} or not kinds <= {str, int, float}:
        raise TypeError
    text = "".join([f"{key}\t{value}\n" for key, value in batch])
    if "\t" in keys or text.count("\n") != len(batch):
        raise ValueError
    return text


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


def run_items(function, main, explain):
    """Calls `run` for the item on stdin, and then for each that there is more: a start takes longer than most."""
    item = text_of(b"".join(iter(lambda: posix.read(0, PIECE), b"")))
    ask = sys.modules["ipdc"]._ask
    while item is not None:
        said = None
        try:
            write_answer(function(item))
        except MemoryError:
            raise
        except BaseException as error:
            said = explain(error, "run", main)
        item = ask("next", error=said)
        # As the first item found it.
        if random := sys.modules.get("random"):
            random.setstate(random.Random().getstate())


def write_items(items):
    """What `producer` gives: items, a line each."""
    items = iter(items or ())
    while batch := [item_of(item) for item in islice(items, RECORDS[1])]:
        write(bytes_of("".join(batch)))


def item_of(item):
    text = field(item, "item")
    if "\n" in text:
        raise ValueError(f"gave the item {shown(item)}; an item has no newline")
    return f"{text}\n"


def call(function, name):
    if name == "map":
        write_records(mapped(function))
    elif name == "producer":
        write_items(function())
    else:
        write_records(grouped(function))


def user_function(name, main):
    folder, _, file = main.rpartition("/")
    sys.path[:0] = [CODE + folder, CODE] if folder else [CODE]
    module = type(sys)(file.removesuffix(".py"))
    module.__file__ = CODE + main
    sys.modules[module.__name__] = module
    with open(module.__file__, "rb") as source:
        exec(compile(source.read(), module.__file__, "exec", dont_inherit=True), vars(module))
    function = getattr(module, name, None)
    if not callable(function):
        raise AttributeError(f"there is no function `{name}`; expected `def {name}(…)`")
    return function


class Lazy(type(sys)):
    """A module whose source is compiled when it is used first."""

    def __init__(self, name, source):
        super().__init__(name)
        self.__source = source

    def __getattr__(self, name):
        self.__class__ = type(sys)
        exec(self.__source, vars(self))
        return getattr(self, name)


def main():
    name, path, ipdc, errors = sys.argv[1:]
    # Records are many and short-lived: as often as it would otherwise, looking for cycles among them costs a third.
    gc.set_threshold(100_000)
    # Stdout is for records.
    sys.stdout = sys.stderr
    sys.argv[:] = [path]
    reserve = bytes(RESERVE)
    ipdc = sys.modules["ipdc"] = Lazy("ipdc", ipdc)
    errors = Lazy("errors", errors)
    try:
        function = user_function(name, path)
        if name == "run":
            run_items(function, path, errors.explain)
        else:
            call(function, name)
    except BaseException as error:
        del reserve
        said = errors.explain(error, name, path)
        ipdc._ask("fail", message=said)
    # The interpreter is not taken apart: it goes with the sandbox.
    sys.stderr.flush()
    posix._exit(0)


main()
