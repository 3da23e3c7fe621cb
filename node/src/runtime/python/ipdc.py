"""What a function may ask of the node that runs it: progress, a log, counts, the job's params, pages, more items."""

import posix

# Where requests are written, a line of JSON each, and answers are read.
DEVICE = "/dev/ipdc"

# Bytes that are read of an answer at once.
PIECE = 256 << 10

_device = None


def log(text):
    """Adds a line to the job's log."""
    _ask("log", text=str(text))


def progress(done, total):
    """Says how far this task is: `done` of `total`, whole numbers of whatever it counts."""
    _ask("progress", done=int(done), total=int(total))


def count(name, n=1):
    """Adds `n` to the job's counter `name`."""
    _ask("count", name=name, by=int(n))


def enqueue(item):
    """Names an item for the job, which takes it as its `[enqueue]` says."""
    _ask("enqueue", item=str(item))


def fetch(url, method="GET", headers=None):
    """What a host of the network answers, a Response, whatever its status; as the job's `[fetch]` says.

    Raises FetchError when no answer came.
    """
    request = {"url": url, "method": method, "headers": dict(headers or {})}
    head, body = _exchange("fetch", {"request": request})
    if "error" in head:
        raise FetchError(head["error"])
    body = [body]
    left = head["body"] - len(body[0])
    while left:
        body.append(posix.read(_device, min(left, PIECE)))
        left -= len(body[-1])
    return Response(head, b"".join(body))


class Response:
    """What a host answered: url, status, headers (a dict, names in small letters), body (bytes)."""

    def __init__(self, head, body):
        self.url, self.status, self.headers = head["url"], head["status"], head["headers"]
        # Where a redirect leads that was not followed.
        self.location = head.get("location")
        self.body = body

    @property
    def ok(self):
        """Whether the status is one of success."""
        return 200 <= self.status < 300

    @property
    def text(self):
        """The body as text, in the encoding that its headers name, else UTF-8."""
        import re

        named = re.search(r"charset=[\"']?([\w.:-]+)", self.headers.get("content-type", ""), re.I)
        try:
            return self.body.decode(named[1] if named else "utf-8", "replace")
        except LookupError:
            return self.body.decode("utf-8", "replace")

    def json(self):
        """The body as JSON."""
        import json

        return json.loads(self.body)

    def __repr__(self):
        return f"<Response {self.status} {self.url}>"


class FetchError(OSError):
    """No answer came. `kind` says of which kind the error is, `code` is its code."""

    def __init__(self, error):
        super().__init__(error["message"])
        self.kind, self.code = error["kind"], error["code"]


def __getattr__(name):
    if name == "params":
        import json

        globals()[name] = json.loads(posix.environ[b"IPDC_PARAMS"])
        return globals()[name]
    if name == "input":
        return posix.environ[b"IPDC_INPUT"].decode()
    raise AttributeError(f"module 'ipdc' has no attribute '{name}'")


def _ask(call, **arguments):
    """Asks the host for `call`; what it answers."""
    return _exchange(call, arguments)[0]


def _exchange(call, arguments):
    """What the host answers to `call`, and the bytes after that which came along."""
    import json

    global _device
    if _device is None:
        _device = posix.open(DEVICE, posix.O_RDWR)
    posix.write(_device, json.dumps({"call": call, **arguments}).encode() + b"\n")
    came = b""
    while b"\n" not in came:
        came += posix.read(_device, PIECE)
    line, _, rest = came.partition(b"\n")
    answer = json.loads(line)
    if "error" in answer:
        raise ValueError(answer["error"])
    return answer["ok"], rest
