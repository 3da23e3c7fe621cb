"""The swarm as a `concurrent.futures.Executor`: which open job an item goes to, and when all are closed."""

from __future__ import annotations

import json
import os
import threading
import weakref
from collections import OrderedDict
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Hashable, Iterator, Optional, Union

from . import _jobdir, _values
from ._function import Limits, Shipped, ship
from ._job import Item, ItemFuture, Job
from ._jobdir import JobResult
from ._node import Node

IN_FLIGHT = 4096
"""How many items of a function may be with the node at a time: enough to keep a swarm busy, few enough that what is
behind them can be cancelled."""

JOBS = 64
"""How many functions and job directories are open at a time. Each has two threads, and a connection of the 256 that a
node serves; beyond, the one that was used least recently is closed."""

ITEM_LIMIT = 64 << 10
"""The longest item, in bytes, as the node has it."""

Home = Union[str, "os.PathLike[str]"]


@dataclass(frozen=True)
class Target:
    """What works on items: how it is known, what opens its job, how items are written and outputs read."""

    key: Hashable
    submission: Callable[[], dict[str, Any]]
    encode: Callable[[tuple, dict], Item]
    decode: Callable[[bytes, dict[str, Any]], Any]


class Swarm(Executor):
    """The swarm of the node that runs in `home` (else where the `ipdc` program looks: IPDC_HOME).

    `submit` and `map` take a function, or the path of a job directory of kind `cl` that is open. `memory`, `time` and
    `retries` are the limits of one call, as docs/job-directory.md has them. Usable by several threads.
    """

    def __init__(
        self,
        home: Optional[Home] = None,
        *,
        in_flight: int = IN_FLIGHT,
        memory: str = Limits.memory,
        time: str = Limits.time,
        retries: int = Limits.retries,
    ):
        if in_flight < 1:
            raise ValueError(f"in_flight is {in_flight}; expected 1 or more")
        self._node = Node(home)
        self._in_flight = in_flight
        self._limits = Limits(memory, time, retries)
        self._lock = threading.Lock()
        self._jobs: OrderedDict[Hashable, Job] = OrderedDict()
        self._closed: list[Job] = []
        self._is_shut = False
        self._shipped: weakref.WeakKeyDictionary[Callable[..., Any], Shipped] = weakref.WeakKeyDictionary()
        # A node that is not there is told at once.
        self._node.get("status")

    def submit(self, fn: Union[Callable[..., Any], Home], /, *args: Any, **kwargs: Any) -> ItemFuture:
        """Calls a function, or gives an item (one argument) to a job directory. What does not travel, a function or a
        value, raises TypeError here, before anything is sent."""
        target = self._target(fn)
        item = target.encode(args, kwargs)
        if len(item.text.encode("utf-8", "surrogatepass")) > ITEM_LIMIT:
            raise ValueError(f"the arguments take {len(item.text)} bytes as an item; the limit is {ITEM_LIMIT}")
        with self._lock:
            if self._is_shut:
                raise RuntimeError("cannot submit: this Swarm was shut down")
            return self._job(target).put(item)

    def map(
        self,
        fn: Union[Callable[..., Any], Home],
        *iterables: Any,
        timeout: Optional[float] = None,
        chunksize: int = 1,
    ) -> Iterator[Any]:
        """As Executor.map: the results in the order of the arguments; a failed one raises where its result would be.
        `chunksize` changes nothing: items are sent and given out in groups anyway."""
        return super().map(self._target(fn), *iterables, timeout=timeout)

    def run(
        self,
        jobdir: Home,
        *,
        input: Optional[str] = None,
        workers: Optional[int] = None,
        memo: Optional[bool] = None,
        params: Optional[dict[str, Any]] = None,
        timeout: Optional[float] = None,
    ) -> JobResult:
        """Runs a whole job directory of any kind, or all its steps, and waits for it, `timeout` seconds at most. `input`
        is a CID. Of steps, the result is the last one's."""
        options = {"input": input, "workers": workers, "memo": memo, "params": params}
        given = {name: value for name, value in options.items() if value is not None}
        submission = {"job": _jobdir.add_dir(self._node, Path(jobdir)), **given}
        return _jobdir.wait(self._node, self._open(submission), timeout)

    def fetch(self, cid: str, path: Home) -> None:
        """Writes a file or directory of the swarm, the result of a job, say, to `path`."""
        _jobdir.fetch(self._node, cid, Path(path))

    def cat(self, cid: str) -> bytes:
        """The bytes of a file: a CID, or `CID/name/name`."""
        return self._node.cat(cid)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Takes no more, and closes the jobs; `wait` for the items that were submitted. `cancel_futures` cancels those
        that were not given to the node yet; the others run to their end."""
        with self._lock:
            self._is_shut = True
            jobs = [*self._jobs.values(), *self._closed]
        for job in jobs:
            job.close(cancel_waiting=cancel_futures)
        if wait:
            for job in jobs:
                job.join()
            self._node.close()

    def _target(self, fn: Any) -> Target:
        if isinstance(fn, Target):
            return fn
        if isinstance(fn, (str, os.PathLike)):
            return self._target_of_dir(Path(fn).absolute())
        return self._target_of_function(fn)

    def _target_of_function(self, function: Callable[..., Any]) -> Target:
        try:
            shipped = self._shipped[function]
        except (KeyError, TypeError):
            shipped = ship(function)
            self._shipped[function] = shipped
        return Target(
            key=shipped,
            submission=lambda: {"kind": "cl", "files": shipped.files(self._limits)},
            encode=self._encode,
            decode=self._decode,
        )

    def _encode(self, args: tuple, kwargs: dict[str, Any]) -> Item:
        """A call, with the files among its arguments."""
        files: dict[str, _values.File] = {}

        def keep(file: _values.File) -> dict[str, Any]:
            block = self._send(file)
            files[block["cid"]] = file
            return block

        return Item(_values.encode_call(args, kwargs, keep), files)

    def _decode(self, output: bytes, files: dict[str, Any]) -> Any:
        """What a function gave; `files` are those that it wrote, by their paths."""

        def find(name: str, kept: dict[str, Any]) -> _values.File:
            return self._node.file(name, kept if "cid" in kept else files[kept["out"]])

        return _values.decode(output, find)

    def _send(self, file: _values.File) -> dict[str, Any]:
        """Adds a file to the swarm, once."""
        if file._block is None:
            added = self._node.add(file)
            file._block = {"cid": added["cid"], "bytes": added["size"]}
        return file._block

    def _target_of_dir(self, directory: Path) -> Target:
        return Target(
            key=directory,
            submission=lambda: {"job": _jobdir.add_dir(self._node, directory)},
            encode=_item,
            decode=_text_of,
        )

    def _job(self, target: Target) -> Job:
        job = self._jobs.get(target.key)
        if job is None:
            job = Job(self._node, lambda: self._open(target.submission()), target.decode, self._in_flight)
            self._jobs[target.key] = job
        self._jobs.move_to_end(target.key)
        if len(self._jobs) > JOBS:
            _, oldest = self._jobs.popitem(last=False)
            oldest.close()
            self._closed = [job for job in self._closed if not job.is_over] + [oldest]
        return job

    def _open(self, submission: dict[str, Any]) -> str:
        return self._node.submit(submission)


def _item(args: tuple, kwargs: dict) -> Item:
    """An item of a job directory: a text as it is, anything else by its JSON."""
    if len(args) != 1 or kwargs:
        raise TypeError("a job directory takes items of one argument")
    return Item(args[0] if isinstance(args[0], str) else json.dumps(args[0]))


def _text_of(output: bytes, files: dict[str, Any]) -> Union[str, bytes]:
    """What an item of a job directory gave: text where it is UTF-8."""
    try:
        return output.decode()
    except UnicodeDecodeError:
        return output
