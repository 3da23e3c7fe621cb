"""The HTTP client of one node: finds it by its home, asks, and streams. Only the standard library.

Every wait has a bound. Connections are kept while they are fresh; each new one reads `run.json` again, so a node that
was started again at another port is found.
"""

from __future__ import annotations

import http.client
import json
import os
import select
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any, BinaryIO, Iterator, Optional, Union
from urllib.parse import quote, urlencode

from ._errors import NodeError, NodeUnreachable
from ._values import File

ANSWER_S = 60.0
"""The longest that a node may stay silent, in seconds. It holds an answer back for 30 at most."""

PATIENCE_S = 3 * 3600.0
"""The longest that a submission may take, in seconds: a node gives the building of an image an hour."""

STREAM_S = 30.0
"""After so many seconds of silence a stream is given up: the node sends an empty line after ten."""

FRESH_S = 20.0
"""For how many seconds an idle connection is used again. The node closes one without a request after 60."""

IDLE_CONNECTIONS = 8
"""How many idle connections are kept: a node serves 256 in all."""

PIECE = 1 << 16
"""Bytes that are read at once of a file."""

Body = Union[bytes, BinaryIO, None]


class Silence(Exception):
    """A stream said nothing for STREAM_S seconds: its node is gone, or too busy. It is worth another try."""


def default_home() -> Path:
    """The node's home as the `ipdc` program finds it: IPDC_HOME, else the place for a user's data."""
    named = os.environ.get("IPDC_HOME")
    if named:
        return Path(named)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "ipdc"
    if sys.platform == "win32":
        return Path(os.environ["APPDATA"]) / "ipdc" / "data"
    data = os.environ.get("XDG_DATA_HOME", "")
    return (Path(data) if os.path.isabs(data) else Path.home() / ".local" / "share") / "ipdc"


class Node:
    """The node that runs in `home`. May be used by several threads."""

    def __init__(self, home: Optional[Union[str, os.PathLike[str]]] = None):
        self.home = Path(home) if home is not None else default_home()
        self._lock = threading.Lock()
        self._idle: list[tuple[http.client.HTTPConnection, float]] = []
        self._token = ""

    def get(self, *path: str, **query: object) -> Any:
        """What a GET answers. NodeUnreachable or NodeError, as all of these."""
        return self._json("GET", path, query)

    def post(self, *path: str, body: Any = None, **query: object) -> Any:
        """What a POST answers, with a body in JSON or, where the request needs none, without."""
        if body is None:
            return self._json("POST", path, query)
        data = json.dumps(body).encode()
        return self._json("POST", path, query, data, {"Content-Type": "application/json"})

    def submit(self, submission: dict[str, Any]) -> str:
        """Submits a job; its ID. It may have an image built: it is waited for as long as the node answers meanwhile."""
        headers = {"Content-Type": "application/json"}
        data = json.dumps(submission).encode()
        asked = self._ask("POST", ("jobs",), {}, data, headers, patience=PATIENCE_S)
        return json.loads(self._read(*asked))["job"]

    def add(self, file: File) -> dict[str, Any]:
        """Adds a file to the swarm; `cid` and `size`. It stays for certain only with what names it: a directory, a job."""
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(file.size)}
        with file.open() as content:
            return self._json("POST", ("files",), {"pin": "false"}, content, headers)

    def file(self, name: str, block: dict[str, Any]) -> File:
        """A file of the swarm, which is fetched when it is read."""
        return File._of_block(name, block, copy=lambda to: self._copy(to, block["cid"]))

    def cat(self, *path: str) -> bytes:
        """The bytes of a file of the swarm: its CID, or that of a directory and names below it."""
        connection, response = self._ask("GET", ("cat", *path), {})
        return self._read(connection, response)

    def save(self, *path: str, to: Path) -> None:
        """Writes a file of the swarm to the file `to`."""
        with open(to, "wb") as file:
            self._copy(file, *path)

    def _copy(self, to: BinaryIO, *path: str) -> None:
        connection, response = self._ask("GET", ("cat", *path), {})
        try:
            while piece := response.read(PIECE):
                to.write(piece)
        except (OSError, http.client.HTTPException) as error:
            raise self._lost(error) from error
        finally:
            connection.close()

    def lines(self, *path: str, **query: object) -> Iterator[bytes]:
        """The lines of an answer as they come, empty ones too, which are signs of life. Raises Silence when none comes
        for a while."""
        connection, response = self._ask("GET", path, query, timeout=STREAM_S)
        try:
            for line in response:
                # A line without its end is what a broken connection left of it.
                if line.endswith(b"\n"):
                    yield line
        except socket.timeout:
            raise Silence from None
        except (OSError, http.client.HTTPException) as error:
            raise self._lost(error) from error
        finally:
            response.close()
            connection.close()

    def close(self) -> None:
        """Closes the connections that are idle."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection, _ in idle:
            connection.close()

    def _json(
        self,
        method: str,
        path: tuple[str, ...],
        query: dict[str, object],
        body: Body = None,
        headers: Optional[dict[str, str]] = None,
    ) -> Any:
        return json.loads(self._read(*self._ask(method, path, query, body, headers)))

    def _ask(
        self,
        method: str,
        path: tuple[str, ...],
        query: dict[str, object],
        body: Body = None,
        headers: Optional[dict[str, str]] = None,
        timeout: float = ANSWER_S,
        patience: float = 0.0,
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        """Sends a request, once: one that may have arrived is never sent again. With `patience` its answer may take so many
        seconds, if the node answers other questions meanwhile."""
        url = "/v1/" + "/".join(quote(part, safe="/") for part in path)
        if query:
            url += "?" + urlencode(query)
        connection, token = self._connection()
        try:
            connection.request(method, url, body, {**(headers or {}), "Authorization": f"Bearer {token}"})
            end = time.monotonic() + patience
            while time.monotonic() < end and not select.select([connection.sock], [], [], ANSWER_S)[0]:
                self.get("status")
            response = connection.getresponse()
            if connection.sock:
                connection.sock.settimeout(timeout)
        except NodeUnreachable:
            connection.close()
            raise
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise self._lost(error) from error
        if response.status >= 400:
            raise NodeError(response.status, _problem(self._read(connection, response)))
        return connection, response

    def _read(self, connection: http.client.HTTPConnection, response: http.client.HTTPResponse) -> bytes:
        try:
            data = response.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise self._lost(error) from error
        if response.will_close:
            connection.close()
        else:
            self._keep(connection)
        return data

    def _connection(self) -> tuple[http.client.HTTPConnection, str]:
        with self._lock:
            while self._idle:
                connection, since = self._idle.pop()
                if time.monotonic() - since < FRESH_S and not _has_news(connection):
                    return connection, self._token
                connection.close()
        address, self._token = self._found()
        host, _, port = address.rpartition(":")
        return http.client.HTTPConnection(host.strip("[]"), int(port), timeout=ANSWER_S), self._token

    def _keep(self, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            if len(self._idle) < IDLE_CONNECTIONS:
                self._idle.append((connection, time.monotonic()))
                return
        connection.close()

    def _found(self) -> tuple[str, str]:
        """Where the node listens, and the token that proves that we are its user."""
        try:
            run = json.loads((self.home / "run.json").read_text("utf-8"))
            return run["http"], (self.home / "api.token").read_text("utf-8").strip()
        except FileNotFoundError:
            raise NodeUnreachable(
                f"no node runs in {self.home}: start one with `ipdc start`, or name its home by IPDC_HOME or"
                " Swarm(home=…)"
            ) from None
        except (OSError, ValueError, KeyError) as error:
            raise NodeUnreachable(f"what says where the node runs cannot be read, in {self.home}: {error!r}") from error

    def _lost(self, error: Exception) -> NodeUnreachable:
        return NodeUnreachable(
            f"the node in {self.home} does not answer: {str(error) or repr(error)}. Is it running? `ipdc status` says,"
            " `ipdc start` starts it"
        )


def _has_news(connection: http.client.HTTPConnection) -> bool:
    """Whether there is something to read where no answer is awaited: the node closed it."""
    return connection.sock is None or bool(select.select([connection.sock], [], [], 0)[0])


def _problem(body: bytes) -> dict[str, Any]:
    try:
        problem = json.loads(body)["error"]
    except (ValueError, KeyError, TypeError):
        return {"message": body[:200].decode("utf-8", "replace")} if body else {}
    return problem if isinstance(problem, dict) else {"message": str(problem)}
