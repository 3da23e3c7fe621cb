"""One open job: gives it items as they are submitted, and its futures what becomes of them.

Two threads. The giver takes what waits, all of it at once, and sends it; while it does, the next items gather, so
that a single one waits for nothing and many go in few requests. The reader follows the stream of items that ended.
What they share is behind one lock; requests are made outside it.

An item is *waiting* until the giver takes it (its future is pending: `cancel` works), then *given* (running) until
its line comes.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections import deque
from concurrent.futures import CancelledError, Future, InvalidStateError, ThreadPoolExecutor
from typing import Any, Callable, NamedTuple, Optional

from ._errors import IpdcError, JobError, NodeError, NodeUnreachable, RemoteError
from ._node import Node, Silence
from ._values import File

GIFT_ITEMS = 1000
"""How many items are given in one request, at most: it takes the node some milliseconds."""

GIFT_BYTES = 1 << 20
"""And of how many bytes, about: the node takes 4 MiB, and JSON may write a byte as more."""

AWAY_S = 10.0
"""For how many seconds a node that does not answer is asked again, while items are with it: it may be restarting."""

PAUSE_S = 0.2
"""Seconds between two of these tries."""

KEPT_FILES = 500
"""How many files the node is asked to keep in one request: it takes 64 KiB."""

FETCHERS = 4
"""How many long outputs are fetched at a time."""

NOT_KEPT = "IPDC-5610"
"""What the node answers when it does not know any more in which order the items of a job ended."""

NOT_OPEN = "IPDC-5611"
"""What the node answers when a job takes no more items: it ends when it was given nothing for an hour."""

ENDED = ("done", "failed", "cancelled")


class Progress(NamedTuple):
    """How far the job is that an item is part of, in items; and how far that item is: what its code said last with
    `ipdc.progress(done, total)` while it runs, else None."""

    total: int
    done: int
    failed: int
    item: Optional[tuple[int, int]] = None


class Item(NamedTuple):
    """What is given, and the files that it names, by their CIDs."""

    text: str
    files: dict[str, File] = {}


class ItemFuture(Future):
    """A `concurrent.futures.Future` of one item.

    `cancel()` works until the item has ended. One that the node has is taken back, and stopped if it runs; that takes a
    request, whose answer is waited for.
    """

    _job: Optional[Job] = None
    _number: Optional[int] = None
    _was_taken_back = False

    files: dict[str, File] = {}
    """The files that the item wrote to /out, by their paths there, once it has ended well."""

    def cancel(self) -> bool:
        """Whether the item is cancelled, before or now. `result` raises CancelledError then."""
        if super().cancel():
            return True
        if self._job and not self.done() and self._job.take_back(self):
            self._end_cancelled()
        return self.cancelled()

    def cancelled(self) -> bool:
        return super().cancelled() or self._was_taken_back

    def _end_cancelled(self) -> None:
        """It was taken back: `Future` has no such end for one that runs."""
        self._was_taken_back = True
        try:
            self.set_exception(CancelledError())
        except InvalidStateError:
            # Both who asked and the stream say so.
            pass

    def progress(self) -> Progress:
        """How far the item and its job are, as the node was told some seconds ago at most."""
        return self._job.progress(None if self.done() else self._number) if self._job else Progress(0, 0, 0)


class Job:
    """An open job, made with the first item. `open_job` submits it and gives its ID; `decode` makes a result of what
    an item gave; `in_flight` is how many items may be with the node at a time.

    When the job ended because nothing was given to it for long, the next item opens another.
    """

    def __init__(self, node: Node, open_job: Callable[[], str], decode: Callable[[bytes, dict[str, Any]], Any], in_flight: int):
        self._node = node
        self._open_job = open_job
        self._decode = decode
        self._in_flight = in_flight
        self._changed = threading.Condition()
        self._id: Optional[str] = None
        self._waiting: deque[tuple[Item, ItemFuture]] = deque()
        self._giving = 0
        self._given: dict[int, ItemFuture] = {}
        # Lines of items whose numbers the answer to their gift has not told us yet.
        self._early: dict[int, dict[str, Any]] = {}
        self._closing = False
        # How many lines of the job's stream were read; None when all are to be read again.
        self._rows: Optional[int] = 0
        # Since when the giver has had no answer.
        self._away_since: Optional[float] = None
        self._fetchers = ThreadPoolExecutor(FETCHERS, thread_name_prefix="ipdc-fetch")
        self._threads = [
            threading.Thread(target=self._give, name="ipdc-give", daemon=True),
            threading.Thread(target=self._read, name="ipdc-read", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def put(self, item: Item) -> ItemFuture:
        """Takes an item. The node keeps the files that it names as long as the job."""
        future = ItemFuture()
        future._job = self
        with self._changed:
            self._waiting.append((item, future))
            self._changed.notify_all()
        return future

    def progress(self, number: Optional[int] = None) -> Progress:
        """How far it is, and its item of this number, asked of the node."""
        with self._changed:
            waiting, job = len(self._waiting) + self._giving, self._id
        view = self._node.get("jobs", job) if job else {}
        items = view.get("items") or {}
        running = {item["n"]: (item["done"], item["total"]) for item in view.get("running_items", ())}
        done, failed = items.get("done", 0), items.get("failed", 0)
        return Progress(items.get("total", 0) + waiting, done, failed, running.get(number))

    def take_back(self, future: ItemFuture) -> bool:
        """Has the node cancel an item that it was given; whether it had not ended."""
        with self._changed:
            # It may just be on its way, and have no number yet.
            self._changed.wait_for(lambda: future._number is not None or future.done(), AWAY_S)
            job, number = self._id, future._number
        if number is None or future.done():
            return False
        answer = self._node.post("jobs", job, "items", "cancel", body={"items": [number]})
        return number in answer["cancelled"]

    def close(self, cancel_waiting: bool = False) -> None:
        """Takes no more items; ends when those that it has have ended. Returns at once."""
        with self._changed:
            self._closing = True
            left = [future for _, future in self._waiting] if cancel_waiting else []
            self._changed.notify_all()
        for future in left:
            # Not one that was given meanwhile.
            Future.cancel(future)

    def join(self) -> None:
        """Waits until a closed job's items have ended."""
        for thread in self._threads:
            thread.join()
        self._fetchers.shutdown()

    @property
    def is_over(self) -> bool:
        """Whether `join` would return at once."""
        return not any(thread.is_alive() for thread in self._threads)

    # The giver.

    def _give(self) -> None:
        while batch := self._next_batch():
            try:
                first = self._give_to_job([item for item, _ in batch])
            except Exception as error:
                self._note_given(None, [])
                for _, future in batch:
                    future.set_exception(error)
            else:
                self._note_given(first, [future for _, future in batch])
        if self._id:
            try:
                self._node.post("jobs", self._id, "close")
            except IpdcError:
                # It has ended, or its node is away; without items, it ends by itself after an hour.
                pass

    def _next_batch(self) -> list[tuple[Item, ItemFuture]]:
        """Items to give, as soon as there are any and room for them; none when no more will come."""
        batch: list[tuple[Item, ItemFuture]] = []
        with self._changed:
            while not batch:
                self._changed.wait_for(lambda: self._room() if self._waiting else self._closing)
                if not self._waiting:
                    # What waited may all have been cancelled, and then the reader waits for nothing any more.
                    self._changed.notify_all()
                    return []
                most, size = min(GIFT_ITEMS, self._room()), 0
                while self._waiting and len(batch) < most and size < GIFT_BYTES:
                    item, future = self._waiting.popleft()
                    if future.set_running_or_notify_cancel():
                        batch.append((item, future))
                        size += len(item.text)
            self._giving = len(batch)
        return batch

    def _room(self) -> int:
        return max(self._in_flight - len(self._given), 0)

    def _give_to_job(self, items: list[Item]) -> int:
        """Gives items to the job, or to a new one if it has ended meanwhile; the number of the first."""
        if self._id:
            try:
                return self._give_for_sure(self._id, items)
            except NodeError as error:
                if error.code != NOT_OPEN or self._given:
                    raise
        job = self._open_job()
        with self._changed:
            self._id = job
            self._rows = 0
            self._early.clear()
            self._changed.notify_all()
        return self._give_for_sure(job, items)

    def _give_for_sure(self, job: str, items: list[Item]) -> int:
        """Gives items once, when what they name is kept."""
        files = {cid: file for item in items for cid, file in item.files.items()}
        try:
            self._keep(job, files)
        except NodeError as error:
            if error.code == NOT_OPEN:
                raise
            # It kept them for a job before, and may have let go of them.
            for file in files.values():
                if file._is_here:
                    self._node.add(file)
            self._keep(job, files)
        texts, key = [item.text for item in items], uuid.uuid4().hex
        return self._post_for_sure("jobs", job, "items", body=texts, key=key)["first"]

    def _keep(self, job: str, files: dict[str, File]) -> None:
        cids = sorted(files)
        for first in range(0, len(cids), KEPT_FILES):
            self._post_for_sure("jobs", job, "files", body={"files": cids[first : first + KEPT_FILES]})

    def _post_for_sure(self, *path: str, body: Any, **query: object) -> Any:
        """What a POST answers that may be sent twice, however often the node has to be asked for it."""
        while True:
            try:
                answer = self._node.post(*path, body=body, **query)
            except NodeUnreachable:
                self._away_since = self._away_since or time.monotonic()
                if time.monotonic() - self._away_since > AWAY_S:
                    raise
                time.sleep(PAUSE_S)
            else:
                self._away_since = None
                return answer

    def _note_given(self, first: Optional[int], futures: list[ItemFuture]) -> None:
        """What the giver gave has numbers from now on."""
        with self._changed:
            self._giving = 0
            if first is not None:
                for number, future in enumerate(futures, first):
                    future._number = number
                    self._given[number] = future
            known = [(line, self._given.pop(n)) for n, line in self._early.items() if n in self._given]
            self._early.clear()
            self._changed.notify_all()
        for line, future in known:
            self._end(line, future)

    # The reader.

    def _read(self) -> None:
        away_since: Optional[float] = None
        while job := self._next_to_read():
            try:
                view = self._follow_and_view(job)
                away_since = None
                if view["state"] in ENDED and self._given:
                    self._fail_given(job, JobError(job, _why_ended(view), view))
            except NodeUnreachable as error:
                away_since = away_since or time.monotonic()
                if time.monotonic() - away_since > AWAY_S:
                    self._fail_given(job, error)
                    away_since = None
            except Exception as error:
                # Whatever it is, who waits must hear of it.
                self._fail_given(job, error)
            if self._given:
                time.sleep(PAUSE_S)

    def _follow_and_view(self, job: str) -> dict[str, Any]:
        """Reads the stream of a job, and then looks how the job is."""
        try:
            self._follow(job)
            view = self._node.get("jobs", job)
            if view["state"] in ENDED and self._given:
                # The stream broke off, and the job ended then: all its lines are there.
                self._follow(job)
            return view
        except NodeError:
            # Its lines may be gone; its view says how it ended.
            return self._node.get("jobs", job)

    def _next_to_read(self) -> Optional[str]:
        """The job as soon as items are with it; None when no more will be."""
        with self._changed:
            self._changed.wait_for(lambda: self._given or (self._closing and not self._waiting and not self._giving))
            return self._id if self._given else None

    def _follow(self, job: str) -> None:
        """Reads the stream of a job, from where it was, until it ends or breaks off, is silent for long, or is of no
        more use."""
        try:
            self._follow_from(job, self._rows)
        except NodeError as error:
            if error.code != NOT_KEPT or self._rows is None:
                raise
            # Then in another order, which has no place to go on from.
            self._rows = None
            self._follow_from(job, None)

    def _follow_from(self, job: str, rows: Optional[int]) -> None:
        lines = self._node.lines("jobs", job, "items", **({} if rows is None else {"after": rows}))
        try:
            for line in lines:
                if line.strip():
                    self._take(job, json.loads(line))
                with self._changed:
                    if self._id != job or (self._closing and not (self._given or self._waiting or self._giving)):
                        break
        except Silence:
            pass
        finally:
            lines.close()

    def _take(self, job: str, line: dict[str, Any]) -> None:
        """What became of an item. It may be told twice; the first time counts."""
        with self._changed:
            if job != self._id:
                return
            if self._rows is not None:
                self._rows += 1
            future = self._given.pop(line["n"], None)
            if future is None:
                if self._giving:
                    self._early[line["n"]] = line
                return
            self._changed.notify_all()
        self._end(line, future)

    def _end(self, line: dict[str, Any], future: ItemFuture) -> None:
        if line["status"] == "cancelled":
            future._end_cancelled()
        elif line["status"] != "done":
            future.set_exception(RemoteError(self._id or "", line))
        elif "cid" in line:
            self._fetchers.submit(self._fetch, line, future)
        else:
            self._answer(line.get("output", "").encode(), line, future)

    def _fetch(self, line: dict[str, Any], future: ItemFuture) -> None:
        try:
            output = self._node.cat(line["cid"])
        except Exception as error:
            future.set_exception(error)
        else:
            self._answer(output, line, future)

    def _answer(self, output: bytes, line: dict[str, Any], future: ItemFuture) -> None:
        try:
            files = line.get("files", {})
            result = self._decode(output, files)
            future.files = {path: self._node.file(path.rpartition("/")[2], block) for path, block in files.items()}
        except Exception as error:
            future.set_exception(error)
        else:
            future.set_result(result)

    def _fail_given(self, job: str, error: Exception) -> None:
        with self._changed:
            if self._id != job:
                return
            given, self._given = self._given, {}
            self._changed.notify_all()
        for future in given.values():
            future.set_exception(error)


def _why_ended(view: dict[str, Any]) -> str:
    error = view.get("error")
    message = error.get("message") if isinstance(error, dict) else error
    return f"it has ended as {view['state']}" + (f": {message}" if message else "")
