"""An adapter that can do whatever goes wrong; needs numpy only."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np


def check() -> None:
    if os.environ.get("TEST_CHECK_FAILS"):
        raise ImportError("no module named 'flux_capacitor'")
    if os.environ.get("TEST_CHECK_SLEEPS"):
        note = Path(os.environ["TEST_CHECK_SLEEPS"])
        note.with_suffix(".tmp").write_text(str(os.getpid()))
        note.with_suffix(".tmp").rename(note)
        time.sleep(600)


def load(device: str, how: str = "well", when: str = "always", notes: str = "") -> Misbehaving:
    if how == "load slowly":
        time.sleep(60)
    if how == "miss a package":
        misbehave("import", device, None)
    if how == "lack weights":
        raise ValueError("weights are\nmissing")
    return Misbehaving(device, how, when, notes)


class Misbehaving:
    """The score is the mean of the image, plus the prompt's length.

    `how` is done on the call whose number is `when`, counted over all processes in `notes`.
    """

    def __init__(self, device: str, how: str, when: str, notes: str) -> None:
        self.device, self.how, self.when = device, how, when
        self.notes = Path(notes) if notes else None

    def score(self, images: list[Any], prompts: list[str]) -> list[float]:
        calls = self._note(images)
        if self.when in ("always", str(calls)):
            misbehave(self.how, self.device, self.notes)
        scores = [
            float(np.asarray(i).mean()) + len(p) for i, p in zip(images, prompts, strict=True)
        ]
        return scores[1:] if self.how == "lose one" else scores

    def truncated(self, prompts: list[str]) -> list[int]:
        if self.how == "hang in truncated":
            time.sleep(600)
        return []

    def _note(self, images: list[Any]) -> int:
        if self.notes is None:
            return 0
        with self.notes.open("a") as file:
            file.write(json.dumps({"pid": os.getpid(), "images": len(images)}) + "\n")
        return len(self.notes.read_text().splitlines())


def misbehave(how: str, device: str, notes: Path | None) -> None:
    if how == "print":
        print("printed from Python")
        os.write(1, b"written to descriptor 1\n")
        libc = ctypes.CDLL(None)
        libc.puts(b"put by C")
        libc.fflush(None)
        subprocess.run([sys.executable, "-c", "print('printed by a child')"], check=True)
        sys.stdout.close()
    elif how == "raise":
        raise ZeroDivisionError("deep\n  inside")
    elif how == "import":
        import flux_capacitor  # type: ignore[import-not-found]  # noqa: F401
    elif how == "run out of memory":
        raise MemoryError
    elif how == "be killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif how == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif how == "exit":
        print("giving up")
        sys.exit(3)
    elif how == "hang":
        time.sleep(600)
    elif how == "spin":
        while True:
            pass
    elif how == "leave a child":
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        assert notes is not None
        (notes.parent / "child").write_text(str(child.pid))
        if notes.name == "hang":
            time.sleep(600)
        os.kill(os.getpid(), signal.SIGKILL)
    elif how == "fork and die":
        if os.fork() == 0:
            time.sleep(600)
        os._exit(7)
    elif how == "tell":
        assert notes is not None
        with tempfile.NamedTemporaryFile(delete=False) as file:
            told = {"device": device, "variables": dict(os.environ), "path": sys.path}
            told["file"] = file.name
        (notes.parent / "told.json").write_text(json.dumps(told))
