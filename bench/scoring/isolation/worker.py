"""The worker: a script that runs in a scorer's own environment and scores what it is sent.

It needs the standard library, and PIL for the images; nothing of bench has to be importable. Of
the adapter's object it calls `score(images, prompts)` and, where there is one,
`truncated(prompts)`.

    worker.py SOCKET FOLDER   answer requests until the socket's other end closes

Then it ends at once, with all processes of its session. FOLDER is its own, for temporary files, and
deleted at its end.

A message is the length of its JSON text as eight bytes, and the text. The RGB pixels of images
follow the message that holds their sizes. The socket is a descriptor of its own, so whatever
libraries print, from Python or from C, goes to the log that the parent gave as standard output and
can't harm the talk.
"""

from __future__ import annotations

import faulthandler
import importlib
import importlib.util
import json
import os
import platform
import select
import shutil
import signal
import socket
import struct
import sys
import threading
import traceback
from collections.abc import Iterable, Mapping, Sequence
from types import ModuleType
from typing import Any

_LENGTH = struct.Struct("!Q")


def send(
    connection: socket.socket, message: Mapping[str, Any], images: Iterable[bytes] = ()
) -> None:
    """Write one message, and the images that it announces."""
    text = json.dumps(message).encode()
    connection.sendall(_LENGTH.pack(len(text)) + text)
    for pixels in images:
        connection.sendall(pixels)


def receive(connection: socket.socket) -> dict[str, Any] | None:
    """Read one message; None if the other side has closed."""
    head = _exactly(connection, _LENGTH.size)
    text = head and _exactly(connection, _LENGTH.unpack(head)[0])
    if not text:
        return None
    message: dict[str, Any] = json.loads(text)
    return message


def _exactly(connection: socket.socket, count: int) -> bytearray:
    """`count` bytes; none if the other side closed before."""
    data = bytearray(count)
    rest = memoryview(data)
    while rest:
        received = connection.recv_into(rest)
        if not received:
            return bytearray()
        rest = rest[received:]
    return data


def load_adapter(path: str) -> ModuleType:
    """The adapter: a file with `load(device, **options)` and, if it likes, `check()`."""
    spec = importlib.util.spec_from_file_location("bench_adapter", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules["bench_adapter"] = module
    spec.loader.exec_module(module)
    return module


def serve(connection: socket.socket) -> None:
    """Answer requests one after the other until the parent closes."""
    scorer: Any = None
    while True:
        request = receive(connection)
        if request is None:
            return
        sizes = request.get("sizes", [])
        pixels = [_exactly(connection, 3 * width * height) for width, height in sizes]
        try:
            if request["do"] == "load":
                sys.path.extend(p for p in request["path"] if p not in sys.path)
                adapter = load_adapter(request["adapter"])
                importlib.import_module("PIL.Image")
                scorer = adapter.load(request["device"], **request["options"])
                able = [name for name in ("score", "truncated") if hasattr(scorer, name)]
                reply: dict[str, Any] = {"abilities": able}
            elif request["do"] == "list":
                reply = {"python": platform.python_version(), "packages": installed()}
            elif request["do"] == "check":
                importlib.import_module("PIL.Image")
                for path in request["adapters"]:
                    getattr(load_adapter(path), "check", lambda: None)()
                reply = {}
            elif request["do"] == "truncated":
                reply = {"truncated": [int(row) for row in scorer.truncated(request["prompts"])]}
            else:
                from PIL import Image

                pairs = zip(sizes, pixels, strict=True)
                images = [Image.frombytes("RGB", tuple(size), data) for size, data in pairs]
                scores = scorer.score(images, request["prompts"])
                reply = {"scores": [float(score) for score in scores]}
        except Exception as error:
            # Whatever a library raises is told to the parent, which decides what becomes of it.
            traceback.print_exc()
            reply = {"error": describe(error)}
        send(connection, reply)


def describe(error: Exception) -> dict[str, Any]:
    """An exception as data."""
    ancestors = [f"{cls.__module__}.{cls.__name__}" for cls in type(error).__mro__]
    return {
        "type": type(error).__name__,
        "message": str(error),
        "for_users": "bench.lib.errors.BenchError" in ancestors,
        "import": isinstance(error, ImportError),
        "memory": _out_of_memory(error),
    }


def _out_of_memory(error: Exception) -> bool:
    """As `bench.lib.errors.out_of_memory`, which cannot be imported here."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    words = ("can't allocate memory", "not enough memory")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)


def _end_with_parent(connection: socket.socket, folder: str) -> None:
    """Wait, beside the work, until the parent's end closes, even by its death; then end at once.

    The system could signal a parent's death itself (PR_SET_PDEATHSIG), but it means the parent's
    thread, and scorers are also loaded from threads that end before the parent does.
    """
    hang_up = select.poll()
    hang_up.register(connection, 0)
    hang_up.poll()
    _end(folder)


def _end(folder: str) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    if os.getpgrp() == os.getpid():
        # With all processes that libraries have started.
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(0)


def installed() -> dict[str, str]:
    """Package -> version."""
    from importlib import metadata

    packages: dict[str, str] = {}
    for package in metadata.distributions():
        # Where two have one name, the first is imported.
        packages.setdefault(package.metadata["Name"], package.version)
    return packages


def main(arguments: Sequence[str]) -> None:
    """See the top of this file."""
    faulthandler.enable()
    descriptor, folder = int(arguments[0]), arguments[1]
    os.set_inheritable(descriptor, False)
    connection = socket.socket(fileno=descriptor)
    watch = threading.Thread(target=_end_with_parent, args=(connection, folder), daemon=True)
    watch.start()
    serve(connection)
    _end(folder)


if __name__ == "__main__":
    main(sys.argv[1:])
