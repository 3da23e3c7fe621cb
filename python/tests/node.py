"""A real node for the tests, in a home of its own: the binary is IPDC_BINARY, the interpreter PYTHON_WASM."""

import os
import shutil
import subprocess
import tempfile
import time
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BINARY = os.environ.get("IPDC_BINARY", str(ROOT / "target/debug/ipdc"))
PYTHON_WASM = os.environ.get("PYTHON_WASM", str(ROOT / "target/python/bin/python.wasm"))

COMMAND_S = 120
"""The longest a command of the tests may take, in seconds: adding the interpreter compiles it."""

WAIT_S = 60
"""The longest that a test waits for a result, in seconds."""

ANY_PORT = ["--mqtt", "127.0.0.1:0", "--http", "127.0.0.1:0", "--listen", "/ip4/127.0.0.1/tcp/0"]


class LocalNode:
    """A node that runs from `start` to `stop`."""

    def __init__(self):
        self.home = Path(tempfile.mkdtemp(prefix="ipdc-python-"))

    def init(self):
        self.ipdc("init")
        return self

    def start(self):
        self.ipdc("start", "--detach", *ANY_PORT)
        return self

    def stop(self):
        self.ipdc("stop", "--yes")

    def remove(self):
        shutil.rmtree(self.home, ignore_errors=True)

    def ipdc(self, *args):
        # Each variable that begins with IPDC_ would be a setting.
        env = {name: value for name, value in os.environ.items() if not name.startswith("IPDC_")}
        env["IPDC_HOME"] = str(self.home)
        ran = subprocess.run([BINARY, *args], env=env, capture_output=True, text=True, timeout=COMMAND_S)
        if ran.returncode:
            raise AssertionError(f"ipdc {' '.join(args)}: {ran.stdout}{ran.stderr}")
        return ran.stdout


class Waiting:
    """For tests of what becomes true after a while."""

    def wait_for(self, condition):
        end = time.monotonic() + WAIT_S
        while not condition():
            self.assertLess(time.monotonic(), end, "this did not become true")
            time.sleep(0.01)


class NodeTest(Waiting, unittest.TestCase):
    """Tests that share a running node; with `python = True`, one with an interpreter."""

    python = False

    @classmethod
    def setUpClass(cls):
        cls.node = LocalNode()
        cls.addClassCleanup(cls.node.remove)
        cls.node.init().start()
        cls.addClassCleanup(cls.node.stop)
        if cls.python:
            cls.node.ipdc("runtime", "add", "python", PYTHON_WASM)


def echo(node, job_toml='kind = "cl"\nrun = "run.wat"\nopen = true\nretries = 0\n'):
    """A job directory whose items are what they give."""
    directory = Path(tempfile.mkdtemp(prefix="echo-", dir=node.home))
    shutil.copy(ROOT / "tests/jobs/echo.wat", directory / "run.wat")
    (directory / "job.toml").write_text(job_toml)
    return directory
