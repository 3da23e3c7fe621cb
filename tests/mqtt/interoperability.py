"""Runs one of Paho's interoperability scripts, which lies in the working directory, or some tests of
it: SCRIPT PORT [TEST…].

By itself the script for 3.1.1 hands its options on to unittest, which knows none of them.
"""

import os
import runpy
import sys
import unittest

script, port, *tests = sys.argv[1:]
run = unittest.main
unittest.main = lambda: run(argv=[script] + ["Test." + test for test in tests], verbosity=2)
sys.argv = [script, "-p", port]
sys.path.insert(0, os.getcwd())
runpy.run_path(script, run_name="__main__")
