"""What goes wrong, as exceptions. Each says what happened, why, and what to do."""

from __future__ import annotations

from typing import Any, Optional, Sequence


class IpdcError(Exception):
    """Any error of this package but those of Python's own kinds: `TypeError` for a value that does not travel."""


class NodeUnreachable(IpdcError):
    """No node runs in the home, or it does not answer."""


class NodeError(IpdcError):
    """The node said no. `code` names the page in docs/errors."""

    def __init__(self, status: int, problem: dict[str, Any]):
        self.status = status
        self.code: str = problem.get("code", "")
        self.message: str = problem.get("message", f"the node answered with HTTP status {status}")
        self.causes: Sequence[str] = problem.get("causes", ())
        self.help: Optional[str] = problem.get("help")
        self.details: Sequence[str] = problem.get("details", ())
        lines = [": ".join(filter(None, [self.code, self.message])), *self.causes, *self.details]
        super().__init__("\n".join(lines + [f"help: {self.help}"] if self.help else lines))


class JobError(IpdcError):
    """A whole job ended without what was asked of it: it failed, or was cancelled."""

    def __init__(self, job: str, message: str, view: Optional[dict[str, Any]] = None):
        self.job = job
        self.view = view
        super().__init__(f"job {job}: {message}")


class RemoteError(IpdcError):
    """An item failed: its function raised, or ran out of its limits.

    `type_name` is the name of the exception's class, `None` where it was none of Python's; `traceback` the
    text that Python prints, empty where there is none; `item` the item's number in `job`; `worker` the node
    that ran it; `code` that of the error's page in docs/errors.
    """

    def __init__(self, job: str, line: dict[str, Any]):
        error = line.get("error") or {}
        log: list[str] = line.get("log") or []
        self.job = job
        self.item: int = line["n"]
        self.code: str = error.get("code", "")
        self.message: str = error.get("message", "the item failed")
        self.worker: str = line.get("worker", "")
        self.log = log
        self.type_name, self.traceback = _raised(log)
        where = f"item {self.item} of job {job}"
        super().__init__("\n".join(filter(None, [f"{self.message} ({self.code}, {where})", self.traceback])))


class NotShippable(TypeError):
    """A function that cannot be sent as source. The message says what to change."""


RAISED = "raised: "
"""How the generated run.py marks, in the item's log, the class of an exception. Its traceback follows."""


def _raised(log: list[str]) -> tuple[Optional[str], str]:
    """What an item's log says of the exception that ended it: the class, and the traceback."""
    marks = [at for at, line in enumerate(log) if line.startswith(RAISED)]
    if not marks:
        return None, ""
    return log[marks[-1]][len(RAISED) :], "\n".join(log[marks[-1] + 1 :])
