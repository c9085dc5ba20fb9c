"""A plugin that tries what its parameters say, and tells in `out` what came of it, and in `pid` who tried."""

import asyncio
import ctypes
import json
import multiprocessing
import os
import resource
import socket
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path


def say(kind, **fields):
    print(json.dumps({"type": kind, **fields}), flush=True)


def connect(at):
    socket.create_connection(("127.0.0.1", int(at)), timeout=5).close()


def bind(at):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", int(at)))


def abstract(at):
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect("\0" + at)


def append(at):
    with open(at, "a", encoding="utf-8") as file:
        file.write("more")


def multipath(at):
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262) as peer:
        peer.connect(("127.0.0.1", int(at)))


def at_once(at):
    with socket.socket() as peer:
        peer.sendto(b"x", 0x20000000, ("127.0.0.1", int(at)))


def datagram(at):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.sendto(b"x", ("127.0.0.1", int(at)))


def listen(_):
    with socket.socket() as listener:
        listener.listen()


def limit(at):
    resource.prlimit(int(at), resource.RLIMIT_CORE, resource.getrlimit(resource.RLIMIT_CORE))


def priority(at):
    os.setpriority(os.PRIO_PROCESS, int(at), 19)


def affinity(at):
    os.sched_setaffinity(int(at), os.sched_getaffinity(0))


def set_user(_):
    with tempfile.NamedTemporaryFile() as file:
        os.chmod(file.name, 0o4755)


def give_away(_):
    with tempfile.NamedTemporaryFile() as file:
        os.chown(file.name, os.getuid() + 1, -1)


def keys(_):
    number = {"x86_64": 248, "aarch64": 217}[os.uname().machine]
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(number, b"user", b"qpipe", b"x", 1, -2) < 0:
        raise OSError(ctypes.get_errno(), "add_key")


def ordinary(_):
    """What programs do, and may."""
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(abs, [-1, -2]) == [1, 2]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(abs, [-3]) == [3]
    assert subprocess.run(["sh", "-c", "ls / | wc -l"], check=True, capture_output=True).stdout
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "file"
        file.write_text("text")
        os.chmod(file, 0o755)
        os.utime(file)
        os.chown(file, os.getuid(), -1)
        Path(folder, "b").write_bytes(file.read_bytes())
    os.sched_setaffinity(0, os.sched_getaffinity(0))
    os.setpriority(os.PRIO_PROCESS, 0, os.getpriority(os.PRIO_PROCESS, 0))
    resource.setrlimit(resource.RLIMIT_CORE, resource.getrlimit(resource.RLIMIT_CORE))
    assert asyncio.run(asyncio.sleep(0, "slept")) == "slept"
    uuid.uuid1()
    assert socket.getaddrinfo("127.0.0.1", 80)
    for end in socket.socketpair():
        end.close()


TRY = {
    "read": lambda at: Path(at).read_bytes(),
    "list": os.listdir,
    "append": append,
    "make": lambda at: os.close(os.open(at, os.O_CREAT | os.O_EXCL | os.O_WRONLY)),
    "truncate": lambda at: os.truncate(at, 0),
    "remove": os.remove,
    "move": lambda at: os.rename(at, at + "-moved"),
    "kill": lambda at: os.kill(int(at), 0),
    "connect": connect,
    "bind": bind,
    "abstract": abstract,
    "multipath": multipath,
    "at-once": at_once,
    "datagram": datagram,
    "listen": listen,
    "names": lambda at: socket.if_nameindex(),
    "limit": limit,
    "priority": priority,
    "affinity": affinity,
    "set-user": set_user,
    "give-away": give_away,
    "keys": keys,
    "terminal": lambda at: os.close(os.open(at, os.O_RDWR)),
    "ordinary": ordinary,
    "nothing": lambda at: None,
}
try:
    os.listdir("/dev/shm")
    SHARED = "seen"
except PermissionError:
    SHARED = "denied"
STAGE = {
    "kind": "pry",
    "doc": f"{os.getpid()} {SHARED}",
    "semantics": 1,
    "determinism": "exact",
    "inputs": [{"name": "given", "kind": "files", "required": False}],
    "output": {"kind": "files", "files": [{"name": "out"}, {"name": "pid"}]},
    "nodes": [
        {"name": "how", "form": "value", "type": "text"},
        {"name": "at", "form": "value", "type": "text", "default": ""},
        {"name": "book", "form": "value", "type": "file"},
        {"name": "loud", "form": "value", "type": "bool", "default": False},
    ],
}


def run(job):
    params, scratch = job["params"], Path(job["scratch"])
    given = job["inputs"].get("given", {}).get("path", "")
    places = {
        "GIVEN": given,
        "BOOK": params.get("book", ""),
        "SELF": os.path.abspath(__file__),
        "SCRATCH": str(scratch),
        "LOG": os.readlink("/proc/self/fd/2"),
    }
    at = params["at"]
    for name, place in places.items():
        at = at.replace(name, place)
    try:
        TRY[params["how"]](at)
        said = "done"
    except OSError as error:
        if params["loud"]:
            return say("error", id=job["id"], **{"class": "bug"}, message=f"PermissionError: {error}")
        said = type(error).__name__
    for name, text in [("out", said), ("pid", str(os.getpid()))]:
        (scratch / name).write_text(text)
        say("artifact", id=job["id"], name=name, path=name)
    say("done", id=job["id"])


for line in sys.stdin if __name__ == "__main__" else []:
    message = json.loads(line)
    if message["type"] == "hello":
        say("hello", protocol=1, minor=1, worker="pry 1", capabilities=[])
    elif message["type"] == "describe":
        say("description", id=message["id"], stages=[STAGE], sources={})
    elif message["type"] == "run":
        run(message)
