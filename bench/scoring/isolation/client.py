"""The parent's side of a worker: starting it, asking it, noticing that it died or hangs."""

from __future__ import annotations

import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.lib.errors import BenchError
from bench.lib.images import upright_rgb
from bench.scoring.chunks import SCORING_REMEDY
from bench.scoring.isolation import worker
from bench.scoring.isolation.environments import (
    clean_variables,
    end_session,
    in_words,
    log_file,
    log_tail,
)

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image
    from torch import Tensor

COUNTED = 8
"""Images of a request that are given time: a larger one is meant for a scorer that is fast with
many, and a hung one shall not be waited for the longer."""
_LOOK_SECONDS = 1.0
"""How often a silent worker is looked after; an answer wakes the parent at once."""
_EXIT_SECONDS = 5.0
"""How long a worker that closed its socket may take to exit with a code of its own."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """What a worker is to be."""

    name: str
    """The scorer's name, for messages."""
    python: Path
    adapter: Path
    device: str
    """As the parent names it: "cpu", "cuda", "cuda:1", ..."""
    options: Mapping[str, Any]
    """JSON data: keyword arguments of the adapter's `load`."""
    timeout: float
    """Seconds an image, for requests; of a request, `COUNTED` images at most."""
    load_timeout: float
    images_per_request: int | None = None
    """None sends batches as they come."""
    adjustable: bool = False
    """Whether the two limits are options of the scorer that users can raise."""
    path: tuple[str, ...] = ()
    """Added to the worker's `sys.path`."""
    remedy: str = ""
    """What to run where Python or packages turn out to be broken."""


class Worker:
    """A scorer at work in another process; a `LoadedScorer`.

    After a crash or a time-out the next batch starts a new process. The process ends with this
    object, with `close`, or with the parent, however that ends.
    """

    def __init__(self, order: Order) -> None:
        """Start the process and load the scorer.

        Raises:
            BenchError: Python, packages or weights are not in order; says which.
        """
        self.order = order
        self._process: Process | None = None
        self._running()

    def score(self, images: Sequence[Image | Tensor], prompts: Sequence[str]) -> np.ndarray:
        """Rate image i under prompt i; float64 [N].

        Raises:
            BenchError: the scorer raised, crashed or hung; says how, with its last words.
        """
        import numpy as np

        if len(images) != len(prompts):
            raise ValueError(f"{len(images)} images but {len(prompts)} prompts")
        step = self.order.images_per_request or max(len(images), 1)
        scores: list[float] = []
        for start in range(0, len(images), step):
            rows = slice(start, start + step)
            scores += self._score(images[rows], prompts[rows])
        return np.asarray(scores, dtype=np.float64)

    def truncated(self, prompts: Sequence[str]) -> list[int]:
        """Positions of the prompts whose end the scorer does not see, as far as it says so."""
        process = self._running()
        if "truncated" not in process.abilities:
            return []
        request = {"do": "truncated", "prompts": list(prompts)}
        # Prompts take next to nothing, however many they are.
        answer = self._ask(process, request, self.order.timeout)
        positions: list[int] = answer["truncated"]
        return positions

    def close(self) -> None:
        """End the process; another batch would start a new one."""
        if self._process:
            self._process.end()
        self._process = None

    def _score(self, images: Sequence[Image | Tensor], prompts: Sequence[str]) -> list[float]:
        pictures = [upright_rgb(image) for image in images]
        sizes = [picture.size for picture in pictures]
        request = {"do": "score", "sizes": sizes, "prompts": list(prompts)}
        limit = self.order.timeout * min(len(images), COUNTED)
        answer = self._ask(self._running(), request, limit, pictures)
        scores: list[float] = answer["scores"]
        if len(scores) != len(images):
            raise BenchError(
                f"scorer {self.order.name!r} gave {len(scores)} scores for {len(images)} images"
            )
        return scores

    def _running(self) -> Process:
        """The process with the scorer loaded; started where there is none."""
        if self._process is None:
            order = self.order
            user = f"scorer {order.name!r}"
            process = self._process = Process(user, order.python, order.device, order.remedy)
            request = {
                "do": "load",
                "adapter": str(order.adapter),
                "device": process.device,
                "options": dict(order.options),
                "path": list(order.path),
            }
            try:
                answer = self._ask(process, request, order.load_timeout)
                process.abilities = frozenset(answer["abilities"])
            except BenchError:
                self.close()
                raise
        return self._process

    def _ask(
        self,
        process: Process,
        request: Mapping[str, Any],
        limit: float,
        pictures: Sequence[Image] = (),
    ) -> dict[str, Any]:
        """One question and its answer; a process that gives none is ended."""
        loading, who = request["do"] == "load", f"scorer {self.order.name!r}"
        remedy = f"; {self.order.remedy}" if self.order.remedy else ""
        try:
            answer = process.ask(request, limit, pictures)
        except GoneError as error:
            self.close()
            remedy = remedy if loading else ""
            raise BenchError(f"{who}: its worker {error}{process.last_words()}{remedy}") from error
        except TimeoutError as error:
            process.keep_log()
            self.close()
            what, option = ("load", "load_timeout") if loading else ("answer", "timeout")
            advice = f"; if it needs longer, raise its option {option!r}"
            raise BenchError(
                f"{who}: its worker did not {what} within {limit:g} s and was ended"
                f"{advice if self.order.adjustable else ''}{process.last_words()}"
            ) from error
        except BaseException:
            # The answer to a question that nobody waits for would be taken for the next one's.
            self.close()
            raise
        if "error" not in answer:
            return answer
        exception = answer["error"]
        if exception["for_users"]:
            raise BenchError(str(exception["message"]))
        process.keep_log()
        reason = SCORING_REMEDY if exception["memory"] else in_words(exception)
        remedy = remedy if exception["import"] else ""
        raise BenchError(f"{who}: {reason} (in its worker; log: {process.log}){remedy}")


class GoneError(Exception):
    """The worker has ended; the message is a verb phrase that says how."""


class Process:
    """A worker's process with its socket and its log."""

    def __init__(self, user: str, python: Path, device: str, remedy: str = "") -> None:
        """Start it.

        Args:
            user: what it is for, as messages begin.
            python: what runs it.
            device: of the parent; `self.device` is its own name of it.
            remedy: what to run where `python` turns out to be broken.

        Raises:
            BenchError: `python` cannot be run.
        """
        self.abilities: frozenset[str] = frozenset()
        self.log = log_file(user)
        self.device, variables = placed(device)
        self._socket, theirs = socket.socketpair()
        folder = tempfile.mkdtemp(prefix="bench-worker-")
        command = [str(python), "-I", "-u", worker.__file__]
        try:
            with self.log.open("wb") as log, theirs:
                self._popen = subprocess.Popen(
                    [*command, str(theirs.fileno()), folder],
                    env=variables | {"TMPDIR": folder},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=[theirs.fileno()],
                    # A group of its own can be ended with all that libraries start in it.
                    start_new_session=True,
                )
        except OSError as error:
            self.log.unlink(missing_ok=True)
            os.rmdir(folder)
            raise BenchError(
                f"{user}: its Python {python} cannot be run: {error.strerror}"
                f"{f'; {remedy}' if remedy else ''}"
            ) from error
        self._forget_log = weakref.finalize(self, self.log.unlink, missing_ok=True)
        self._kill = weakref.finalize(self, _kill, self._popen, self._socket, folder, os.getpid())

    def ask(
        self, request: Mapping[str, Any], limit: float, pictures: Sequence[Image] = ()
    ) -> dict[str, Any]:
        """Send a request and its pictures, and wait for the answer.

        Raises:
            TimeoutError: there was none within `limit` seconds.
            GoneError: there will be none.
        """
        deadline = time.monotonic() + limit
        if self._has_exited():
            # A child that outlives it would leave us waiting for someone to read.
            raise GoneError(self._how_it_ended())
        try:
            self._socket.settimeout(limit)
            worker.send(self._socket, request, (picture.tobytes() for picture in pictures))
            self._wait_until_readable(deadline)
            answer = worker.receive(self._socket)
        except ConnectionError:
            answer = None
        if answer is None:
            raise GoneError(self._how_it_ended())
        return answer

    def end(self) -> None:
        """Kill it and its children; there is nothing that it could save."""
        self._kill()
        self._forget_log()

    def keep_log(self) -> None:
        """A message points at it, unless it is empty."""
        if log_tail(self.log):
            self._forget_log.detach()

    def last_words(self) -> str:
        """The end of its log and the log's place, for messages."""
        tail = log_tail(self.log)
        return f"; its last words: {tail} (log: {self.log})" if tail else ""

    def _wait_until_readable(self, deadline: float) -> None:
        readable = select.poll()
        readable.register(self._socket, select.POLLIN)
        while True:
            left = deadline - time.monotonic()
            if readable.poll(1000 * max(min(left, _LOOK_SECONDS), 0)):
                return
            # A process that one of its children outlives leaves the socket open.
            if self._has_exited():
                raise GoneError(self._how_it_ended())
            if left <= 0:
                raise TimeoutError

    def _has_exited(self) -> bool:
        """Without reaping it, so that its group's number cannot become another's."""
        if sys.platform == "darwin":
            return self._popen.poll() is not None
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self._popen.pid, flags) is not None

    def _how_it_ended(self) -> str:
        waited = time.monotonic() + _EXIT_SECONDS
        while not self._has_exited() and time.monotonic() < waited:
            time.sleep(0.01)
        self.keep_log()
        self._kill()
        code = self._popen.returncode
        if code >= 0:
            return f"ended with exit code {code}"
        name = signal.Signals(-code).name
        hint = " (has the machine run out of memory?)" if name == "SIGKILL" else ""
        return f"was killed by {name}{hint}"


def _kill(
    popen: subprocess.Popen[bytes], connection: socket.socket, folder: str, owner: int
) -> None:
    if os.getpid() != owner:
        # A forked copy of the parent has a copy of this object, but the worker is not its own.
        return
    # Twice, since this process may be killed as soon as the worker cannot do it any more.
    shutil.rmtree(folder, ignore_errors=True)
    end_session(popen)
    shutil.rmtree(folder, ignore_errors=True)
    connection.close()


def placed(device: str) -> tuple[str, dict[str, str]]:
    """What the worker calls the parent's device, and its environment variables.

    It sees only one GPU, the parent's `device`, and none where that is the CPU.
    """
    kind, _, index = device.partition(":")
    if kind == "cpu":
        return device, clean_variables(CUDA_VISIBLE_DEVICES="")
    if kind != "cuda":
        return device, clean_variables()
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    number = int(index or _current_gpu())
    chosen = shown.split(",")[number].strip() if shown else str(number)
    return kind, clean_variables(CUDA_VISIBLE_DEVICES=chosen)


def _current_gpu() -> int:
    """What "cuda" without a number means to torch in this process."""
    torch = sys.modules.get("torch")
    return torch.cuda.current_device() if torch and torch.cuda.is_initialized() else 0
