"""The examples of docs/python-package.md say what happens."""

import doctest
import os
import re
from unittest import mock

from .node import ROOT, NodeTest, echo


class Examples(NodeTest):
    python = True

    def test_each_example_of_the_page_gives_what_it_shows(self):
        page = (ROOT / "docs/python-package.md").read_text("utf-8")
        blocks = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
        self.assertGreater(len(blocks), 4)
        names = {
            "echo": echo(self.node),
            "numbers": echo(self.node, 'kind = "cl"\nrun = "run.wat"\nitems = "0..3"\n'),
            "__name__": "__main__",
        }
        examples = doctest.DocTestParser().get_doctest("".join(blocks), names, "page", None, None)
        said = []
        with mock.patch.dict(os.environ, IPDC_HOME=str(self.node.home)):
            ran = doctest.DocTestRunner(verbose=False).run(examples, out=said.append)
        self.assertEqual(ran.failed, 0, "".join(said))
