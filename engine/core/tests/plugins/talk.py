"""A plugin that talks over files."""

import json
import os
import sys
import time

FOLDER = os.environ["QSTAGE_DIR"]
STAGE = {
    "kind": "talk",
    "semantics": 1,
    "determinism": "exact",
    "output": {"kind": "files", "files": [{"name": "out"}]},
    "nodes": [{"name": "how", "form": "value", "type": "text", "required": True}],
}


def write_to(path, text):
    with open(path, "a") as file:
        file.write(text)


def write(text):
    write_to(os.path.join(FOLDER, "replies"), text)


def say(kind, **fields):
    write(json.dumps({"type": kind, **fields}) + "\n")


def lines():
    """Whole lines of the engine's, as they come."""
    with open(os.path.join(FOLDER, "requests"), "rb") as requests:
        rest = b""
        while True:
            rest += requests.read()
            *whole, rest = rest.split(b"\n")
            yield from whole
            time.sleep(0.002)


def run(job):
    how, id, path = job["params"]["how"], job["id"], os.path.join(job["scratch"], "out")
    print("about", how, flush=True)
    if how == "gone":
        sys.exit(7)
    if how == "half":
        write('{"type": "done", "id"')
        sys.exit(0)
    if how == "garbage":
        write("no message\n")
    if how == "takes":
        for name in ["requests", "replies"]:
            try:
                os.rename(os.path.join(FOLDER, name), path)
            except PermissionError:
                continue
            raise SystemExit(f"{name} can be taken away")
        try:
            write_to(os.path.join(FOLDER, "requests"), "{}\n")
        except PermissionError:
            pass
        else:
            raise SystemExit("requests can be written")
    if how == "beats":
        for _ in range(3):
            while json.loads(next(said))["type"] != "heartbeat":
                pass
    if how == "pieces":
        line = json.dumps({"type": "progress", "id": id, "done": 1, "total": 2, "what": "pieces"}) + "\n"
        for at in range(0, len(line), 7):
            write(line[at : at + 7])
            time.sleep(0.005)
    open(path, "w").write(f"{os.getpid()}\n")
    say("artifact", id=id, name="out", path="out")
    say("done", id=id)


if "mute" in sys.argv:
    print("no queue of this name", flush=True)
    sys.exit(3)
said = lines()
for line in said:
    message = json.loads(line)
    if message["type"] == "hello":
        say("hello", protocol=1, minor=1, worker="talk 1.0")
    elif message["type"] == "describe":
        say("description", id=message["id"], stages=[STAGE])
    elif message["type"] == "run":
        run(message)
    elif message["type"] == "bye":
        open(os.path.join(os.path.dirname(os.path.abspath(sys.argv[0])), "farewell"), "w").close()
        sys.exit(0)
