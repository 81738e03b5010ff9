"""The worker: a script that runs in a scorer's own environment and scores what it is sent.

It needs the standard library, and PIL for the images; nothing of bench has to be importable. Of
the adapter's object it calls `score(images, prompts)` and, where there is one, `overlong(prompts)`.

    worker.py serve SOCKET IMAGES FOLDER       answer requests until the socket's other end closes
    worker.py check SOCKET RESULT ADAPTER...   load adapters, call their `check`, write JSON

FOLDER is the worker's own, for temporary files, and deleted at its end. Either ends at once when
the other end of SOCKET closes, with all processes of its session.

A message is the length of its JSON text as eight bytes, and the text. Images lie one after the
other in the memory file IMAGES, which the parent fills; only their sizes are in the message. The
socket is a descriptor of its own, so whatever libraries print, from Python or from C, goes to the
log that the parent gave as standard output and can't harm the talk.
"""

from __future__ import annotations

import faulthandler
import importlib
import importlib.util
import json
import mmap
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
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

_LENGTH = struct.Struct("!Q")
BYTES_PER_PIXEL = 3


def send(connection: socket.socket, message: Mapping[str, Any]) -> None:
    """Write one message."""
    text = json.dumps(message).encode()
    connection.sendall(_LENGTH.pack(len(text)) + text)


def receive(connection: socket.socket) -> dict[str, Any] | None:
    """Read one message; None if the other side has closed."""
    head = _exactly(connection, _LENGTH.size)
    text = head and _exactly(connection, _LENGTH.unpack(head)[0])
    if not text:
        return None
    message: dict[str, Any] = json.loads(text)
    return message


def _exactly(connection: socket.socket, count: int) -> bytes:
    """`count` bytes; fewer if the other side closed before."""
    parts = []
    while count:
        part = connection.recv(min(count, 1 << 20))
        if not part:
            return b""
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


class SharedImages:
    """The memory file that holds a request's images, as the worker sees it."""

    def __init__(self, descriptor: int) -> None:
        """Nothing is mapped before there are images."""
        self._descriptor = descriptor
        self._memory: mmap.mmap | None = None

    def read(self, sizes: Sequence[Sequence[int]]) -> list[Any]:
        """RGB images of the given widths and heights, from the start of the file."""
        from PIL import Image

        needed = sum(width * height for width, height in sizes) * BYTES_PER_PIXEL
        if needed and (self._memory is None or len(self._memory) < needed):
            # The parent has made the file longer; length 0 maps all of it.
            self._memory = mmap.mmap(self._descriptor, 0)
        memory = memoryview(self._memory or b"")
        images, start = [], 0
        for width, height in sizes:
            end = start + width * height * BYTES_PER_PIXEL
            images.append(Image.frombytes("RGB", (width, height), memory[start:end]))
            start = end
        return images


def load_adapter(path: str) -> ModuleType:
    """The adapter: a file with `load(device, **options)` and, if it likes, `check()`."""
    spec = importlib.util.spec_from_file_location("bench_adapter", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules["bench_adapter"] = module
    spec.loader.exec_module(module)
    return module


def serve(connection: socket.socket, images: SharedImages) -> None:
    """Answer requests one after the other until the parent closes."""
    scorer: Any = None
    while True:
        request = receive(connection)
        if request is None:
            return
        try:
            if request["do"] == "load":
                sys.path.extend(p for p in request["path"] if p not in sys.path)
                adapter = load_adapter(request["adapter"])
                importlib.import_module("PIL.Image")
                scorer = adapter.load(request["device"], **request["options"])
                able = [name for name in ("score", "overlong") if hasattr(scorer, name)]
                reply: dict[str, Any] = {"abilities": able}
            elif request["do"] == "overlong":
                reply = {"overlong": [int(row) for row in scorer.overlong(request["prompts"])]}
            else:
                scores = scorer.score(images.read(request["sizes"]), request["prompts"])
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
    """As `bench.run.making.out_of_memory`, which cannot be imported here."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    words = ("can't allocate memory", "not enough memory")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)


def _end_with_parent(connection: socket.socket, folder: str = "") -> None:
    """Wait, beside the work, until the parent's end closes, even by its death; then end at once.

    The system could signal a parent's death itself (PR_SET_PDEATHSIG), but it means the parent's
    thread, and scorers are also loaded from threads that end before the parent does.
    """
    hang_up = select.poll()
    hang_up.register(connection, 0)
    hang_up.poll()
    _end(folder)


def _end(folder: str) -> None:
    if folder:
        shutil.rmtree(folder, ignore_errors=True)
    if os.getpgrp() == os.getpid():
        # With all processes that libraries have started.
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(0)


def check(result: str, adapters: Sequence[str]) -> None:
    """Write what is installed here, and what keeps an adapter from working, to a file."""
    from importlib import metadata

    packages: dict[str, str] = {}
    for found in metadata.distributions():
        # Where two have one name, the first is imported.
        packages.setdefault(found.metadata["Name"], found.version)
    report: dict[str, Any] = {
        "python": platform.python_version(),
        "packages": packages,
        "error": None,
    }
    try:
        importlib.import_module("PIL.Image")
        for adapter in adapters:
            getattr(load_adapter(adapter), "check", lambda: None)()
    except Exception as error:
        traceback.print_exc()
        report["error"] = describe(error)
    with open(result, "w", encoding="utf-8") as file:
        json.dump(report, file)


def main(arguments: Sequence[str]) -> None:
    """See the top of this file."""
    faulthandler.enable()
    does, descriptor, *others = arguments
    os.set_inheritable(int(descriptor), False)
    connection = socket.socket(fileno=int(descriptor))
    folder = others[1] if does == "serve" else ""
    watch = threading.Thread(target=_end_with_parent, args=(connection, folder), daemon=True)
    watch.start()
    if does == "check":
        check(others[0], others[1:])
        return
    images = int(others[0])
    os.set_inheritable(images, False)
    serve(connection, SharedImages(images))
    _end(folder)


if __name__ == "__main__":
    main(sys.argv[1:])
