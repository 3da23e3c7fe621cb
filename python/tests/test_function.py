"""Which functions can be shipped, and what is said of those that cannot."""

import functools
import math
import os.path as path
import unittest

from ipdc import NotShippable
from ipdc._function import ship

LIMIT = 3


def plain(a, b=2, *rest, c: "int" = 3, **more) -> dict:
    """A plain function."""
    return {"a": a + b + c}


def with_modules(r):
    class Circle:
        side = 2
        area = math.pi * side

    return path.join(str(Circle.area), *(math.floor(r) for _ in range(2)))


def with_a_global(x):
    return x + LIMIT


def with_a_default(x=LIMIT):
    return x


def with_itself(n):
    return n and n * with_itself(n - 1)


def decorator(function):
    @functools.wraps(function)
    def wrapped(x):
        return x

    return wrapped


@decorator
def decorated(x):
    return x


@functools.lru_cache
def cached(x):
    return x


async def asynchronous(x):
    return x


class Thing:
    def method(self, x):
        return x


class Shipping(unittest.TestCase):
    def test_a_plain_function_is_its_source(self):
        shipped = ship(plain)
        self.assertEqual(shipped.name, "plain")
        self.assertTrue(shipped.source.startswith("from __future__ import annotations\ndef plain(a, b=2"))

    def test_a_nested_function_without_closure_is_shipped(self):
        def nested(x):
            return x

        self.assertIn("\ndef nested(x):\n    return x\n", ship(nested).source)

    def test_modules_that_are_used_are_imported_there(self):
        first = ship(with_modules).source.splitlines()[0]
        self.assertEqual(first, "from __future__ import annotations; import math as math; import posixpath as path")
        self.assertEqual(ship(with_itself).source.splitlines()[0], "from __future__ import annotations")

    def test_the_same_source_is_the_same_job(self):
        def nested(x):
            return x

        first = ship(nested)

        def nested(x):
            return x

        self.assertEqual(first, ship(nested))

    def test_what_cannot_be_shipped_says_why(self):
        outer = 1

        def closure(x):
            return x + outer

        namespace = {}
        exec("def typed_in(x): return x", namespace)
        for function, why in [
            (lambda x: x, "a lambda"),
            (closure, "`closure` uses outer of the function around it"),
            (len, "no plain function"),
            (Thing().method, "no plain function"),
            (Thing, "no plain function"),
            (functools.partial(plain, 1), "no plain function"),
            (cached, "no plain function"),
            (with_a_global, "`with_a_global` uses the global `LIMIT`"),
            (with_a_default, "`with_a_default` uses the global `LIMIT`"),
            (asynchronous, "an `async def`"),
            (decorated, "`decorated`|of the function around it"),
            (namespace["typed_in"], "is not in a file"),
        ]:
            with self.subTest(why=why), self.assertRaisesRegex(NotShippable, why):
                ship(function)
