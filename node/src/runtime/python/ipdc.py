"""What a function may ask of the node that runs it: progress, a log, counts, the job's params."""

import posix

# Where requests are written, a line of JSON each, and answers are read.
DEVICE = "/dev/ipdc"

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
    import json

    global _device
    if _device is None:
        _device = open(DEVICE, "r+b", buffering=0)
    _device.write(json.dumps({"call": call, **arguments}).encode() + b"\n")
    answer = b""
    while not answer.endswith(b"\n"):
        answer += _device.read(1 << 16)
    answer = json.loads(answer)
    if "error" in answer:
        raise ValueError(answer["error"])
    return answer.get("ok")
