"""Explains an error of the user's code, in its own place: what glue.py loads when there is one."""

import sys
import traceback

CODE = "/code/"


def explain(error, name, main):
    """What the user is told of an error: its whole traceback in the log, and one line."""
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
    return where.removeprefix(CODE) + (what if len(what) <= 200 else what[:200] + "…") + hint(error, frames)


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
        "no packages but Python's standard library and the job's own .py files",
        ("No module named",),
    ),
    (
        "no files but those of the job: side files in /job, files by CID in /ipfs, and /out to write for items",
        ("[Errno 44]", "[Errno 69]", "[Errno 76]"),
    ),
    ("no more memory: `limits.memory` in job.toml", ("MemoryError",)),
)


def hint(error, frames):
    signs = [frame.filename + "\n" for frame in frames if not frame.filename.startswith(CODE)]
    signs.append(f"{type(error).__name__}: {error}")
    for lack, marks in LACKS:
        if any(mark in sign for sign in signs for mark in marks):
            return f" (the sandbox has {lack})"
    return ""
