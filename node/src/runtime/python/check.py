"""Looks at a job's Python code without running it.

    python -c CHECK FUNCTION MAIN IPDC ERRORS

Every file must compile, and MAIN must have FUNCTION.
"""

import posix
import sys
import _symtable

CODE = "/code"


def files(folder):
    for name in sorted(posix.listdir(folder)):
        path = f"{folder}/{name}"
        if name.endswith(".py"):
            yield path
        else:
            yield from files(path)


def check(function, main):
    for path in files(CODE):
        with open(path, "rb") as file:
            source = file.read()
        compiled = compile(source, path, "exec", dont_inherit=True)
        if path == f"{CODE}/{main}":
            names = _symtable.symtable(source, path, "exec").symbols
            # What comes by `from … import *` is known when it runs.
            if function not in names and ("*",) not in compiled.co_consts:
                return f"{main}: there is no function `{function}`; expected `def {function}(…)`"
    return None


def main():
    name, path, ipdc, _ = sys.argv[1:]
    module = type(sys)("ipdc")
    exec(ipdc, vars(module))
    try:
        wrong = check(name, path)
    except SyntaxError as error:
        wrong = f"{error.filename}:{error.lineno}: {type(error).__name__}: {error.msg}".removeprefix(CODE + "/")
    except ValueError as error:
        wrong = f"{path}: {error}"
    if wrong:
        module._ask("fail", message=wrong)


main()
