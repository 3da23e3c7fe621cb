"""The executor's own machinery, with job directories that take no time."""

import json
import os
import signal
import threading
import time
import unittest
from concurrent.futures import CancelledError, Executor, as_completed
from pathlib import Path

from ipdc import JobError, NodeError, NodeUnreachable, RemoteError, Swarm

from .node import WAIT_S, LocalNode, NodeTest, Waiting, echo


class JobDirectories(NodeTest):
    def setUp(self):
        self.swarm = Swarm(self.node.home)
        self.addCleanup(self.swarm.shutdown)
        self.dir = echo(self.node)

    def test_a_swarm_is_an_executor(self):
        self.assertIsInstance(self.swarm, Executor)
        futures = {self.swarm.submit(self.dir, str(n)): str(n) for n in range(5)}
        self.assertEqual({f: f.result() for f in as_completed(futures, WAIT_S)}, futures)

    def test_map_gives_a_thousand_results_in_order(self):
        self.assertEqual(list(self.swarm.map(self.dir, range(1000), timeout=WAIT_S)), [str(n) for n in range(1000)])

    def test_a_failed_item_raises_in_its_place(self):
        results = self.swarm.map(self.dir, ["a", "!b", "c"], timeout=WAIT_S)
        self.assertEqual(next(results), "a")
        with self.assertRaises(RemoteError) as caught:
            next(results)
        self.assertEqual((caught.exception.item, caught.exception.log, caught.exception.type_name), (1, ["!b"], None))

    def test_many_threads_may_submit(self):
        results = []

        def work(name):
            for n in range(50):
                results.append(self.swarm.submit(self.dir, f"{name}{n}").result(WAIT_S) == f"{name}{n}")

        threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT_S)
        self.assertEqual(results, [True] * 200)

    def test_no_more_items_are_with_the_node_than_may_be(self):
        with Swarm(self.node.home, in_flight=3) as swarm:
            self.assertEqual(len(list(swarm.map(self.dir, map(str, range(50)), timeout=WAIT_S))), 50)

    def test_what_waits_can_be_cancelled_and_what_has_ended_cannot(self):
        with Swarm(self.node.home, in_flight=1) as swarm:
            slow, waits, after = (swarm.submit(self.dir, item) for item in ("~1", "~2", "~3"))
            self.assertTrue(waits.cancel())
            with self.assertRaises(CancelledError):
                waits.result(WAIT_S)
            self.assertEqual((slow.result(WAIT_S), after.result(WAIT_S)), ("~1", "~3"))
            self.assertFalse(slow.cancel())
            self.wait_for(lambda: after.progress().done == 2)
            self.assertEqual(after.progress()[:3], (2, 2, 0), "what was cancelled was never sent")

    def test_what_runs_can_be_cancelled_and_is_stopped(self):
        endless = [self.swarm.submit(self.dir, "?") for _ in range(20)]
        self.wait_for(endless[-1].running)
        self.assertTrue(all(future.cancel() for future in endless))
        self.assertTrue(all(future.cancelled() and future.done() for future in endless))
        with self.assertRaises(CancelledError):
            endless[0].result(WAIT_S)
        after = self.swarm.submit(self.dir, "1")
        self.assertEqual(after.result(WAIT_S), "1", "the others' places are free")
        self.assertFalse(after.cancel())

    def test_progress_counts_the_items_of_the_job(self):
        futures = [self.swarm.submit(self.dir, str(n)) for n in range(10)]
        for future in futures:
            future.result(WAIT_S)
        self.wait_for(lambda: futures[0].progress().done == 10)
        self.assertEqual(futures[0].progress(), (10, 10, 0, None))

    def test_shutdown_waits_closes_the_job_and_refuses_more(self):
        future = self.swarm.submit(self.dir, "~1")
        self.swarm.shutdown()
        self.assertTrue(future.done())
        with self.assertRaisesRegex(RuntimeError, "shut down"):
            self.swarm.submit(self.dir, "2")
        other = Swarm(self.node.home)
        self.addCleanup(other.shutdown)
        self.wait_for(lambda: other._node.get("jobs", future._job._id)["state"] == "done")

    def test_shutdown_can_cancel_what_waits(self):
        swarm = Swarm(self.node.home, in_flight=1)
        futures = [swarm.submit(self.dir, f"~{n}") for n in range(20)]
        swarm.shutdown(cancel_futures=True)
        self.assertTrue(all(future.done() for future in futures))
        self.assertGreater(sum(future.cancelled() for future in futures), 15)

    def test_a_job_that_is_cancelled_fails_its_futures(self):
        future = self.swarm.submit(self.dir, "?")
        self.wait_for(lambda: future._job._given)
        self.swarm._node.post("jobs", future._job._id, "cancel")
        with self.assertRaisesRegex(JobError, "cancelled"):
            future.result(WAIT_S)

    def test_a_job_that_ended_meanwhile_is_followed_by_another(self):
        first = self.swarm.submit(self.dir, "1")
        first.result(WAIT_S)
        job = first._job._id
        self.swarm._node.post("jobs", job, "close")
        second = self.swarm.submit(self.dir, "2")
        self.assertEqual(second.result(WAIT_S), "2")
        self.assertNotEqual(second._job._id, job)

    def test_a_directory_that_is_not_open_says_so(self):
        closed = echo(self.node, 'kind = "cl"\nrun = "run.wat"\nitems = "0..2"\n')
        with self.assertRaisesRegex(NodeError, "open"):
            self.swarm.submit(closed, "1").result(WAIT_S)

    def test_a_whole_job_runs_and_its_result_is_fetched(self):
        result = self.swarm.run(echo(self.node, 'kind = "cl"\nrun = "run.wat"\nitems = "0..3"\n'), timeout=WAIT_S)
        out = Path(self.node.home, "out")
        self.swarm.fetch(result.cid, out)
        lines = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
        self.assertEqual([line["output"] for line in lines], ["0", "1", "2"])
        self.assertEqual(self.swarm.cat(f"{result.cid}/results.jsonl"), (out / "results.jsonl").read_bytes())

    def test_steps_run_to_the_last(self):
        step = '[[step]]\nname = "%s"\nkind = "cl"\nrun = "run.wat"\n'
        last = 'items = { step = "a", path = "%s" }\n'
        first = step % "a" + 'items = "0..3"\n' + step % "b"
        result = self.swarm.run(echo(self.node, first + last % "results.jsonl"), timeout=WAIT_S)
        self.assertEqual(result.view["step"], {"name": "b", "place": 2, "of": 2})
        self.assertEqual(result.view["items"]["done"], 3)
        with self.assertRaisesRegex(JobError, "step `b` was not begun"):
            self.swarm.run(echo(self.node, first + last % "gone"), timeout=WAIT_S)

    def test_a_job_directory_that_is_wrong_says_what_the_node_says(self):
        with self.assertRaisesRegex(NodeError, "gone.wasm"):
            self.swarm.run(echo(self.node, 'kind = "cl"\nrun = "gone.wasm"\nitems = "0..3"\n'), timeout=WAIT_S)

    def test_a_whole_job_that_takes_too_long_times_out(self):
        with self.assertRaises(TimeoutError):
            self.swarm.run(echo(self.node), timeout=0.2)


class DeadNodes(Waiting, unittest.TestCase):
    def setUp(self):
        self.node = LocalNode()
        self.addCleanup(self.node.remove)

    def test_a_home_without_a_node_says_how_to_start_one(self):
        with self.assertRaisesRegex(NodeUnreachable, "ipdc start"):
            Swarm(self.node.home)

    def test_items_outlive_a_restart_and_a_node_that_died_is_an_error(self):
        self.node.init().start()
        swarm = Swarm(self.node.home)
        directory = echo(self.node)
        self.assertEqual(swarm.submit(directory, "1").result(WAIT_S), "1")
        self.kill()
        self.node.start()
        self.assertEqual(swarm.submit(directory, "2").result(WAIT_S), "2")
        endless = swarm.submit(directory, "?")
        self.wait_for(endless.running)
        self.kill()
        with self.assertRaisesRegex(NodeUnreachable, "does not answer"):
            endless.result(WAIT_S)
        with self.assertRaisesRegex(NodeUnreachable, "does not answer"):
            swarm.submit(directory, "3").result(WAIT_S)
        swarm.shutdown()

    def kill(self):
        pid = json.loads((self.node.home / "run.json").read_text())["pid"]
        os.kill(pid, signal.SIGKILL)
        self.wait_for(lambda: is_gone(pid))


def is_gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True
