"""Functions and job directories on a real node with a Python interpreter."""

import asyncio
import json

from ipdc import File, JobError, NodeError, NotShippable, RemoteError, Swarm
from ipdc._node import Node

from .node import WAIT_S, NodeTest


def add(a, b=1):
    return a + b


def parts(text, times=1):
    return {"int": len(text), "bytes": text.encode(), "tuple": (text, None), "long": text * times}


def divide(a, b):
    def inner():
        return a / b

    return inner()


def write_files(count):
    import os

    import ipdc

    os.makedirs("/out/deep", exist_ok=True)
    files = []
    for n in range(count):
        path = f"/out/deep/{n}"
        with open(path, "w") as to:
            to.write(f"file {n}")
        files.append(ipdc.File(path))
    return files


def split_file(file, at):
    import ipdc

    ipdc.progress(1, 2)
    data = file.read()
    return {"first": ipdc.File("first", data[:at]), "rest": ipdc.File("rest", data[at:]), "len": len(data)}


def gives_a_set(x):
    return {x}


class Functions(NodeTest):
    python = True

    def setUp(self):
        self.swarm = Swarm(self.node.home)
        self.addCleanup(self.swarm.shutdown)

    def test_a_hundred_submits_give_a_hundred_results(self):
        futures = [self.swarm.submit(add, n, b=2) for n in range(100)]
        self.assertEqual([future.result(WAIT_S) for future in futures], [n + 2 for n in range(100)])

    def test_results_have_their_types_however_long_they_are(self):
        expected = {"int": 3, "bytes": b"abc", "tuple": ("abc", None), "long": "abc"}
        self.assertEqual(self.swarm.submit(parts, "abc").result(WAIT_S), expected)
        self.assertEqual(len(self.swarm.submit(parts, "abc", times=100_000).result(WAIT_S)["long"]), 300_000)

    def test_an_exception_comes_with_its_type_and_traceback(self):
        future = self.swarm.submit(divide, 1, 0)
        error = future.exception(WAIT_S)
        self.assertIsInstance(error, RemoteError)
        self.assertEqual((error.type_name, error.item, error.code), ("ZeroDivisionError", 0, "IPDC-5316"))
        self.assertIn("function.py:4: in inner: ZeroDivisionError", error.message)
        self.assertTrue(error.traceback.startswith("Traceback (most recent call last):"))
        self.assertTrue(error.traceback.endswith("ZeroDivisionError: division by zero"))
        self.assertEqual(self.swarm.submit(divide, 1, 2).result(WAIT_S), 0.5, "the others go on")

    def test_a_result_that_does_not_travel_is_an_error_of_its_item(self):
        error = self.swarm.submit(gives_a_set, 1).exception(WAIT_S)
        self.assertEqual(error.type_name, "TypeError")
        self.assertIn("builtins.set", error.message)

    def test_a_file_and_an_int_give_two_files_and_an_int(self):
        answer = self.swarm.submit(split_file, File("in.txt", b"one,two"), 3).result(WAIT_S)
        self.assertEqual(answer, {"first": File("first", b"one"), "rest": File("rest", b",two"), "len": 7})

    def test_a_file_that_is_sent_is_kept_as_long_as_the_job(self):
        node = Node(self.node.home)
        self.addCleanup(node.close)

        def pins(cid):
            return [pin["reason"] for pin in node.get("pins") if pin["cid"] == cid]

        with Swarm(self.node.home) as swarm:
            # Longer than what travels in the item itself.
            file = File("kept.txt", b"kept" * File.INLINE)
            self.assertEqual(swarm.submit(split_file, file, 4).result(WAIT_S)["len"], file.size)
            self.assertEqual([reason.split(":")[0] for reason in pins(file._block["cid"])], ["job"])
        self.wait_for(lambda: not pins(file._block["cid"]))

    def test_long_files_go_in_and_out_as_blocks(self):
        data = bytes(range(256)) * 8192
        answer = self.swarm.submit(split_file, File("in.bin", data), 3).result(WAIT_S)
        first, rest = answer["first"], answer["rest"]
        self.assertEqual((first.read(), rest.size, answer["len"]), (data[:3], len(data) - 3, len(data)))
        self.assertEqual(rest, File("rest", data[3:]))
        # What came is given on without being sent again.
        again = self.swarm.submit(split_file, rest, 1).result(WAIT_S)
        self.assertEqual(again["rest"].read(), data[4:])

    def test_what_is_written_to_out_is_a_file_of_the_result(self):
        future = self.swarm.submit(write_files, 3)
        answer = future.result(WAIT_S)
        self.assertEqual([file.text() for file in answer], ["file 0", "file 1", "file 2"])
        self.assertEqual(sorted(future.files), ["deep/2", "deep/1", "deep/0"][::-1])
        self.assertEqual(future.files["deep/1"].read(), b"file 1")

    def test_wrong_values_and_functions_are_refused_before_anything_is_sent(self):
        with self.assertRaisesRegex(TypeError, "argument 1"):
            self.swarm.submit(add, {1})
        with self.assertRaises(NotShippable):
            self.swarm.submit(lambda x: x, 1)
        with self.assertRaisesRegex(ValueError, "limit is 65536"):
            self.swarm.submit(add, "x" * 70_000)
        self.assertEqual(self.swarm._jobs, {})

    def test_two_functions_run_beside_each_other(self):
        sums = [self.swarm.submit(add, n) for n in range(5)]
        quotients = [self.swarm.submit(divide, n, 2) for n in range(5)]
        self.assertEqual([future.result(WAIT_S) for future in sums], [1, 2, 3, 4, 5])
        self.assertEqual([future.result(WAIT_S) for future in quotients], [0, 0.5, 1, 1.5, 2])

    def test_what_was_computed_is_remembered_by_content(self):
        self.swarm.submit(add, 1000, 1).result(WAIT_S)
        with Swarm(self.node.home) as second:
            future = second.submit(add, 1000, 1)
            self.assertEqual(future.result(WAIT_S), 1001)
            job = future._job._id
        line = json.loads(next(self.swarm._node.lines("jobs", job, "items")))
        self.assertEqual(line["attempts"], 0, "0 is what was remembered")

    def test_asyncio_awaits_its_futures(self):
        async def both():
            futures = [self.swarm.submit(add, n) for n in (1, 2)]
            return await asyncio.wait_for(asyncio.gather(*map(asyncio.wrap_future, futures)), WAIT_S)

        self.assertEqual(asyncio.run(both()), [2, 3])

    def test_the_limits_of_the_swarm_are_those_of_a_call(self):
        def forever():
            while True:
                pass

        with Swarm(self.node.home, time="500ms") as swarm:
            error = swarm.submit(forever).exception(WAIT_S)
        self.assertIsInstance(error, RemoteError)
        self.assertIsNone(error.type_name)

    def test_what_a_call_says_of_its_progress_is_told_while_it_runs(self):
        def forever():
            import ipdc

            ipdc.progress(1, 3)
            ipdc.progress(2, 3)
            while True:
                pass

        with Swarm(self.node.home, time="15s") as swarm:
            future = swarm.submit(forever)
            self.wait_for(lambda: future.done() or future.progress().item)
            self.assertEqual(future.progress().item, (2, 3))
            swarm._node.post("jobs", future._job._id, "cancel")
            self.assertIsInstance(future.exception(WAIT_S), JobError)
            self.assertIsNone(future.progress().item)

    def test_limits_that_are_none_are_an_error_of_the_node(self):
        with Swarm(self.node.home, memory="much") as swarm:
            with self.assertRaisesRegex(NodeError, "memory"):
                swarm.submit(add, 1).result(WAIT_S)

