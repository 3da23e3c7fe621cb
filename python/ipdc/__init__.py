"""Python functions and job directories on a swarm of ipdc nodes.

    from ipdc import Swarm

    with Swarm() as swarm:
        print(swarm.submit(pow_of, 2, 10).result())

`docs/python-package.md` tells the rest.
"""

from ._errors import (
    IpdcError,
    JobError,
    NodeError,
    NodeUnreachable,
    NotShippable,
    RemoteError,
)
from ._executor import Swarm
from ._job import ItemFuture, Progress
from ._jobdir import JobResult
from ._values import File

__all__ = [
    "File",
    "IpdcError",
    "ItemFuture",
    "JobError",
    "JobResult",
    "NodeError",
    "NodeUnreachable",
    "NotShippable",
    "Progress",
    "RemoteError",
    "Swarm",
]
