"""How a function is shipped: as its source, with what it needs to run. No pickle.

Owns what is generated: the files of the job that runs one function. Sends nothing.
"""

from __future__ import annotations

import ast
import builtins
import dis
import inspect
import textwrap
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any, Callable, Iterator

from . import _values
from ._errors import RAISED, NotShippable

JOB_TOML = """\
kind = "cl"
run = "run.py"
open = true
inline = "16KiB"
retries = {retries}

[limits]
memory = "{memory}"
time = "{time}"
"""

RUN_PY = f"""\
import ipdc
import ipdc_values

ipdc.File = ipdc_values.File

from function import FUNCTION as function


def run(item):
    args, kwargs = ipdc_values.decode_call(item, ipdc_values.find_by_cid)
    try:
        return ipdc_values.encode(function(*args, **kwargs), ipdc_values.keep_in_out)
    except BaseException as error:
        ipdc.log("{RAISED}" + type(error).__qualname__)
        raise
"""


@dataclass(frozen=True)
class Limits:
    """What an item may use, as `job.toml` writes it: `memory="256MiB"`, `time="10m"`; and `retries`, how often an item
    that failed is tried again. A function that raised once in the sandbox raises again, so the default is 0."""

    memory: str = "256MiB"
    time: str = "10m"
    retries: int = 0


@dataclass(frozen=True)
class Shipped:
    """A function as it travels. Two that are equal are the same function."""

    name: str
    source: str

    def files(self, limits: Limits) -> dict[str, str]:
        """The job directory that runs it."""
        return {
            "job.toml": JOB_TOML.format(**vars(limits)),
            "run.py": RUN_PY.replace("FUNCTION", self.name),
            "function.py": self.source,
            "ipdc_values.py": Path(_values.__file__).read_text("utf-8"),
        }


def ship(function: Callable[..., Any]) -> Shipped:
    """The function as source; NotShippable says why it has none that runs by itself."""
    if not isinstance(function, FunctionType):
        raise NotShippable(
            f"{function!r} is no plain function: methods, builtins, classes and partials have no source that runs by"
            " itself. Write a `def` that calls it"
        )
    name = function.__name__
    if name == "<lambda>":
        raise NotShippable("a lambda has no source of its own: write it as a `def`")
    if function.__code__.co_freevars:
        names = ", ".join(function.__code__.co_freevars)
        raise NotShippable(f"`{name}` uses {names} of the function around it: pass it as an argument")
    try:
        source = textwrap.dedent(inspect.getsource(function))
    except (OSError, TypeError):
        raise NotShippable(f"the source of `{name}` is not in a file that can be read: define it in one") from None
    definition = _definition(name, source)
    used = {*_globals(function.__code__), *_names_in_defaults(definition)} - {name, *vars(builtins)}
    imports = "".join(_import(function, used_name) for used_name in sorted(used))
    return Shipped(name, f"from __future__ import annotations{imports}\n{source}")


def _definition(name: str, source: str) -> ast.FunctionDef:
    try:
        found = ast.parse(source).body[0]
    except SyntaxError:
        found = None
    if isinstance(found, ast.AsyncFunctionDef):
        raise NotShippable(f"`{name}` is an `async def`: write it as a `def`")
    if not isinstance(found, ast.FunctionDef) or found.name != name:
        raise NotShippable(f"`{name}` is not what its source says: expected a `def {name}(…)` by itself")
    if found.decorator_list:
        raise NotShippable(f"`{name}` has a decorator: send the function that is in it")
    return found


def _globals(code: CodeType) -> Iterator[str]:
    """The global names that the code reads, and those of the functions in it."""
    instructions = list(dis.get_instructions(code))
    # What the body of a class in the function stores, it reads by the same instruction as globals.
    own = {instruction.argval for instruction in instructions if instruction.opname == "STORE_NAME"}
    for instruction in instructions:
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME") and instruction.argval not in own:
            yield instruction.argval
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _globals(constant)


def _names_in_defaults(definition: ast.FunctionDef) -> Iterator[str]:
    defaults = [*definition.args.defaults, *filter(None, definition.args.kw_defaults)]
    for default in defaults:
        yield from (node.id for node in ast.walk(default) if isinstance(node, ast.Name))


def _import(function: FunctionType, used: str) -> str:
    """The import of a module that the function knows as the global `used`, to stand on the first line."""
    value = function.__globals__.get(used)
    if not isinstance(value, ModuleType):
        raise NotShippable(
            f"`{function.__name__}` uses the global `{used}`, which does not travel with it: pass it as an argument, or"
            " define or import it in the function"
        )
    return f"; import {value.__name__} as {used}"
