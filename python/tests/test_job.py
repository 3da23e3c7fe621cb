"""An open job against a node that says what the test wants."""

import json
import queue
import threading
import unittest
from concurrent.futures import CancelledError

from ipdc import File, NodeError, NodeUnreachable, RemoteError
from ipdc._job import Item, Job

from .node import Waiting

WAIT_S = 10


class FakeNode:
    """Numbers what it is given, and streams the lines that `tell` adds, to each reader all of them."""

    def __init__(self):
        self.gifts = []
        self.kept = []
        self.added = []
        self.lacks = set()
        self.given = 0
        self.answer = threading.Event()
        self.answer.set()
        self.told = queue.Queue()
        self.closed = threading.Event()
        self.loses_answers = 0
        self.can_be_cancelled = []
        self.afters = []
        self.firsts = {}

    def tell(self, n, **line):
        self.told.put(json.dumps({"n": n, "item": "", "status": "done", "output": str(n), **line}).encode())

    def add(self, file):
        self.added.append(file.name)
        self.lacks.clear()

    def post(self, *path, body=None, key=None):
        if path[-1] == "cancel":
            return {"cancelled": [n for n in body["items"] if n in self.can_be_cancelled]}
        if path[-1] == "files":
            if self.lacks.intersection(body["files"]):
                raise NodeError(502, {"code": "IPDC-3201", "message": "nobody has it"})
            self.kept.append((body["files"], len(self.gifts)))
            return {}
        if path[-1] == "close":
            self.closed.set()
            self.told.put(None)
            return {}
        if key not in self.firsts:
            self.firsts[key], self.given = self.given, self.given + len(body)
            self.gifts.append(body)
        self.answer.wait(WAIT_S)
        if self.loses_answers:
            self.loses_answers -= 1
            raise NodeUnreachable("the connection broke")
        return {"first": self.firsts[key]}

    def get(self, *path, **query):
        return {"state": "done" if self.closed.is_set() else "running", "items": {"total": self.given, "done": 0, "failed": 0}}

    def lines(self, *path, after=None):
        self.afters.append(after)
        while (line := self.told.get(timeout=WAIT_S)) is not None:
            yield line


class OpenJobs(Waiting, unittest.TestCase):
    def setUp(self):
        self.node = FakeNode()
        self.job = self.open()

    def open(self, in_flight=100):
        return Job(self.node, lambda: "job", lambda output, files: output.decode(), in_flight)

    def end(self):
        self.job.close()
        self.job.join()
        self.assertTrue(self.node.closed.is_set())

    def test_results_go_to_their_items_in_whatever_order_they_come(self):
        futures = [self.job.put(Item(str(n))) for n in range(3)]
        self.wait_for(lambda: self.node.given == 3)
        for n in (2, 0, 1):
            self.node.tell(n)
        self.assertEqual([future.result(WAIT_S) for future in futures], ["0", "1", "2"])
        self.end()

    def test_what_items_name_is_kept_before_they_are_given(self):
        here = File("name", b"")
        self.node.answer.clear()
        first = self.job.put(Item("a", {"x": here}))
        self.wait_for(lambda: self.node.gifts)
        names = [f"{n:04}" for n in range(501)]
        many, two = dict.fromkeys(names[1:], here), dict.fromkeys(names[:2], here)
        rest = [self.job.put(item) for item in (Item("b"), Item("c", many), Item("d", two))]
        self.node.answer.set()
        self.wait_for(lambda: self.node.given == 4)
        self.assertEqual(self.node.kept, [(["x"], 0), (names[:500], 1), (names[500:], 1)])
        for n in range(4):
            self.node.tell(n)
        self.assertEqual([future.result(WAIT_S) for future in [first, *rest]], ["0", "1", "2", "3"])
        self.end()

    def test_what_the_node_let_go_of_is_sent_again(self):
        here, there = File("here", b"bytes"), File._of_block("there", {"cid": "y", "bytes": 5}, copy=print)
        self.node.lacks = {"x"}
        future = self.job.put(Item("a", {"x": here, "y": there}))
        self.wait_for(lambda: self.node.given == 1)
        self.assertEqual(self.node.kept, [(["x", "y"], 0)])
        self.assertEqual(self.node.added, ["here"])
        self.node.tell(0)
        self.assertEqual(future.result(WAIT_S), "0")
        self.end()

    def test_an_item_that_is_told_twice_counts_once(self):
        first = self.job.put(Item("a"))
        self.wait_for(lambda: self.node.given == 1)
        self.node.tell(0)
        self.node.tell(0, output="other")
        self.assertEqual(first.result(WAIT_S), "0")
        second = self.job.put(Item("b"))
        self.wait_for(lambda: self.node.given == 2)
        self.node.tell(0, status="failed")
        self.node.tell(1)
        self.assertEqual(second.result(WAIT_S), "1")
        self.end()

    def test_a_line_that_comes_before_the_items_number_is_kept(self):
        slow = self.job.put(Item("a"))
        self.wait_for(lambda: self.node.gifts)
        self.node.answer.clear()
        early = self.job.put(Item("b"))
        self.wait_for(lambda: len(self.node.gifts) == 2)
        self.node.tell(1)
        self.node.tell(0)
        self.assertEqual(slow.result(WAIT_S), "0")
        self.assertFalse(early.done())
        self.node.answer.set()
        self.assertEqual(early.result(WAIT_S), "1")
        self.end()

    def test_what_gathers_while_a_request_is_under_way_is_given_at_once(self):
        self.node.answer.clear()
        futures = [self.job.put(Item("first"))]
        self.wait_for(lambda: self.node.gifts)
        futures += [self.job.put(Item(str(n))) for n in range(50)]
        self.node.answer.set()
        self.wait_for(lambda: self.node.given == 51)
        for n in range(51):
            self.node.tell(n)
        for future in futures:
            future.result(WAIT_S)
        self.assertEqual([len(gift) for gift in self.node.gifts], [1, 50])
        self.end()

    def test_a_gift_whose_answer_was_lost_is_taken_once(self):
        self.node.loses_answers = 2
        futures = [self.job.put(Item("a"))]
        self.wait_for(lambda: not self.node.loses_answers)
        futures.append(self.job.put(Item("b")))
        self.wait_for(lambda: self.node.given == 2)
        for n in (0, 1):
            self.node.tell(n)
        self.assertEqual([future.result(WAIT_S) for future in futures], ["0", "1"])
        self.assertEqual(self.node.gifts, [["a"], ["b"]])
        self.end()

    def test_a_stream_that_broke_off_goes_on_where_it_was_and_empty_lines_are_none(self):
        futures = [self.job.put(Item(str(n))) for n in range(3)]
        self.wait_for(lambda: self.node.given == 3)
        self.node.told.put(b"\n")
        self.node.tell(2)
        self.node.tell(0)
        self.node.told.put(None)
        self.wait_for(lambda: len(self.node.afters) == 2)
        self.node.tell(1)
        self.assertEqual([future.result(WAIT_S) for future in futures], ["0", "1", "2"])
        self.assertEqual(self.node.afters, [0, 2])
        self.end()

    def test_an_item_that_the_node_has_is_cancelled_if_the_node_says_so(self):
        first, second = self.job.put(Item("a")), self.job.put(Item("b"))
        self.wait_for(lambda: self.node.given == 2 and second._number == 1)
        self.node.can_be_cancelled = [1]
        self.assertFalse(first.cancel())
        self.assertTrue(second.cancel() and second.cancelled() and second.cancel())
        self.node.tell(1, status="cancelled")
        self.node.tell(0)
        self.assertEqual(first.result(WAIT_S), "0")
        with self.assertRaises(CancelledError):
            second.result(WAIT_S)
        self.end()

    def test_a_failed_item_has_what_its_log_says(self):
        future = self.job.put(Item("a"))
        log = ["before", "raised: KeyError", "Traceback (most recent call last):", "KeyError: 1"]
        self.wait_for(lambda: self.node.given == 1)
        self.node.tell(0, status="failed", error={"code": "IPDC-5316", "message": "KeyError: 1"}, log=log)
        error = future.exception(WAIT_S)
        self.assertIsInstance(error, RemoteError)
        self.assertEqual(error.type_name, "KeyError")
        self.assertEqual(error.traceback, "Traceback (most recent call last):\nKeyError: 1")
        self.end()

    def test_a_line_that_is_none_is_an_error_and_no_silence(self):
        future = self.job.put(Item("a"))
        self.node.told.put(b"{\n")
        with self.assertRaises(ValueError):
            future.result(WAIT_S)
        self.end()

    def test_a_job_that_cannot_be_opened_fails_its_items(self):
        def refused():
            raise NodeError(400, {"code": "IPDC-4001", "message": "no"})

        job = Job(self.node, refused, lambda output, files: output.decode(), 100)
        with self.assertRaisesRegex(NodeError, "IPDC-4001: no"):
            job.put(Item("a")).result(WAIT_S)
        for unused in (job, self.job):
            unused.close()
            unused.join()
        self.assertEqual(self.node.gifts, [])
        self.assertFalse(self.node.closed.is_set())

    def test_a_job_whose_waiting_items_were_all_cancelled_ends(self):
        goes_on = threading.Event()

        def refused_late():
            goes_on.wait(WAIT_S)
            raise NodeError(400, {"message": "no"})

        job = Job(self.node, refused_late, lambda output, files: output.decode(), 100)
        first = job.put(Item("a"))
        self.wait_for(first.running)
        job.put(Item("b"))
        job.close(cancel_waiting=True)
        goes_on.set()
        self.assertIsInstance(first.exception(WAIT_S), NodeError)
        self.wait_for(lambda: job.is_over)
        self.job.close()
