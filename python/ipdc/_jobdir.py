"""Job directories: adds one to the swarm, submits it, waits for it, and fetches what it gave."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterator, Optional

from ._errors import JobError
from ._node import Node
from ._values import File

WAIT_S = 20
"""For how many seconds the node is asked to hold back the answer while a job goes on: 30 at most."""

ENTRIES = 100_000
"""How many files a directory that is added or fetched may have: beyond, it is rather not what was meant."""


@dataclass(frozen=True)
class JobResult:
    """A job that is done: its ID, the CIDs of its result and its report, and its last view (docs/http.md)."""

    job: str
    cid: str
    report: Optional[str]
    view: dict[str, Any]


def add_dir(node: Node, directory: Path) -> str:
    """Adds a directory to the swarm; its CID. Directories with a CACHEDIR.TAG stay behind, as with `ipdc run`."""
    entries = []
    for path in _files(directory):
        added = node.add(File(path))
        entries.append({"path": path.relative_to(directory).as_posix(), **added})
        if len(entries) > ENTRIES:
            raise ValueError(f"{directory} has more than {ENTRIES} files")
    if not entries:
        raise FileNotFoundError(f"{directory} is no job directory: it has no files")
    return node.post("dirs", body={"entries": entries})["cid"]


def _files(directory: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(directory):
        if "CACHEDIR.TAG" in files:
            folders.clear()
            continue
        folders.sort()
        yield from (Path(folder, file) for file in sorted(files))


def wait(node: Node, job: str, timeout: Optional[float]) -> JobResult:
    """Waits for the end of a job and of the steps after it: JobError when one fails or is cancelled, TimeoutError when
    they take longer."""
    end = None if timeout is None else time.monotonic() + timeout
    view = node.get("jobs", job)
    while "next" in view or view["state"] not in ("done", "failed", "cancelled"):
        if "next" in view:
            job = view["next"]
            view = node.get("jobs", job)
            continue
        left = WAIT_S if end is None else end - time.monotonic()
        if left <= 0:
            raise TimeoutError(f"job {job} is not done after {timeout} s; it goes on: `ipdc job show {job}`")
        view = node.get("jobs", job, since=view["version"], wait_s=max(1, min(WAIT_S, int(left))))
    if view["state"] != "done" or "stopped" in view:
        error = view["error"] or view.get("stopped") or {}
        raise JobError(job, error.get("message") or view["state"], view)
    return JobResult(job, view["result"], view.get("report"), view)


def fetch(node: Node, cid: str, path: Path) -> None:
    """Writes a file or directory of the swarm to `path`."""
    listing = node.get("ls", cid)
    if listing["kind"] == "file":
        node.save(cid, to=path)
        return
    path.mkdir(parents=True, exist_ok=True)
    for entry in listing["entries"]:
        name = entry["name"]
        if name in ("", ".", "..") or "/" in name or os.sep in name:
            raise ValueError(f"{cid} has an entry {name!r}, which is no name of a file here")
        if entry["kind"] == "dir":
            fetch(node, entry["cid"], path / name)
        else:
            node.save(entry["cid"], to=path / name)
