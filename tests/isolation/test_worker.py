"""A worker does what the scorer would do here, and nothing that happens to it happens to us."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bench.lib.errors import BenchError, out_of_memory
from bench.running.launch import meeting_point
from bench.scoring.chunks import CHUNK, SCORING_REMEDY, score_in_chunks
from bench.scoring.isolation import client, environments
from bench.scoring.isolation.client import Order, Worker
from bench.scoring.isolation.worker import describe
from tests.isolation.conftest import ADAPTER, expected, pictures

Logs = Callable[[], list[Path]]


@contextmanager
def working(
    how: str = "well", when: str = "always", notes: Path | str = "", **changes: Any
) -> Iterator[Worker]:
    worker = Worker(order(how, when, notes, **changes))
    try:
        yield worker
    finally:
        worker.close()


def order(how: str = "well", when: str = "always", notes: Path | str = "", **changes: Any) -> Order:
    options = {"how": how, "when": when, "notes": str(notes)}
    values: dict[str, Any] = {
        "name": "tester",
        "python": Path(sys.executable),
        "adapter": ADAPTER,
        "device": "cpu",
        "options": options,
        "timeout": 30.0,
        "load_timeout": 30.0,
    }
    return Order(**(values | changes))


def calls(notes: Path) -> list[dict[str, int]]:
    return [json.loads(line) for line in notes.read_text().splitlines()]


def gone(pid: int, seconds: float = 10.0) -> bool:
    """Whether the process ends (a zombie has ended) within some seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False


def test_images_and_prompts_arrive_and_scores_come_back_exactly() -> None:
    images = [
        *pictures(3, (8, 6)),
        *pictures(2, (300, 200)),
        *pictures(1, (5, 7), "RGBA"),
        *pictures(1, (5, 7), "L"),
        *pictures(1, (5, 7), "P"),
        Image.new("RGB", (1, 1), (1, 0, 0)),
    ]
    prompts = ["", "naïve 日本 🎨", "a\nb", "\ud800 lone", "x" * 300_000, *"abcd"]
    with working() as worker:
        np.testing.assert_array_equal(worker.score(images, prompts), expected(images, prompts))
        # Smaller and larger batches.
        for batch in (pictures(1, (3, 3)), pictures(2, (900, 800)), pictures(4)):
            texts = ["p"] * len(batch)
            np.testing.assert_array_equal(worker.score(batch, texts), expected(batch, texts))
        assert worker.score([], []).shape == (0,)
        with pytest.raises(ValueError, match="1 images but 2 prompts"):
            worker.score(pictures(1), ["a", "b"])


def test_a_batch_is_sent_in_the_stated_portions(tmp_path: Path) -> None:
    images, prompts = pictures(10), [str(i) for i in range(10)]
    with working(notes=tmp_path / "notes", images_per_request=4) as worker:
        np.testing.assert_array_equal(worker.score(images, prompts), expected(images, prompts))
    assert [call["images"] for call in calls(tmp_path / "notes")] == [4, 4, 2]


def test_whatever_libraries_print_goes_to_the_log(
    logs: Logs, capfd: pytest.CaptureFixture[str]
) -> None:
    images = pictures(2)
    with working("print") as worker:
        scores = worker.score(images, ["a", "b"])
        np.testing.assert_array_equal(scores, expected(images, ["a", "b"]))
        (log,) = logs()
        text = log.read_text()
        for line in ("printed from Python", "written to descriptor 1", "put by C", "by a child"):
            assert line in text
    assert capfd.readouterr() == ("", "")
    assert not logs()


def test_an_exception_is_one_sentence_and_the_worker_goes_on(tmp_path: Path, logs: Logs) -> None:
    notes, images = tmp_path / "notes", pictures(2)
    with working("raise", "1", notes) as worker:
        with pytest.raises(BenchError) as caught:
            worker.score(images, ["a", "b"])
        (log,) = logs()
        assert str(caught.value) == (
            f"scorer 'tester': ZeroDivisionError: deep inside (in its worker; log: {log})"
        )
        np.testing.assert_array_equal(
            worker.score(images, ["a", "b"]), expected(images, ["a", "b"])
        )
    assert "in misbehave" in log.read_text()
    assert len({call["pid"] for call in calls(notes)}) == 1


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("be killed", r"was killed by SIGKILL \(has the machine run out of memory\?\)$"),
        ("crash", r"was killed by SIGSEGV; its last words: .*\(log: .*\.log\)$"),
        ("exit", r"ended with exit code 3; its last words: giving up \(log: .*\.log\)$"),
        ("fork and die", r"ended with exit code 7$"),
    ],
)
def test_a_crash_says_how_and_the_next_batch_starts_anew(
    tmp_path: Path, logs: Logs, how: str, said: str
) -> None:
    notes, images = tmp_path / "notes", pictures(2)
    with working(how, "1", notes) as worker:
        with pytest.raises(BenchError, match=rf"^scorer 'tester': its worker {said}") as caught:
            worker.score(images, ["a", "b"])
        assert "\n" not in str(caught.value)
        np.testing.assert_array_equal(
            worker.score(images, ["a", "b"]), expected(images, ["a", "b"])
        )
    assert len({call["pid"] for call in calls(notes)}) == 2
    # An empty one tells nobody anything.
    assert [log for log in logs() if str(log) not in str(caught.value)] == []


def test_a_death_between_two_batches_is_noticed_at_once() -> None:
    images = pictures(2, (900, 800))
    with working() as worker:
        assert worker._process is not None
        pid = worker._process._popen.pid
        os.kill(pid, signal.SIGKILL)
        assert gone(pid)
        with pytest.raises(BenchError, match="its worker was killed by SIGKILL"):
            worker.score(images, ["a", "b"])
        np.testing.assert_array_equal(
            worker.score(images, ["a", "b"]), expected(images, ["a", "b"])
        )


def test_old_logs_are_deleted(logs: Logs) -> None:
    for name, days in (("old", environments.LOG_DAYS + 1), ("recent", environments.LOG_DAYS - 1)):
        log = environments.log_file(name)
        log.touch()
        then = time.time() - days * 86400
        os.utime(log, (then, then))
    environments.log_file("new")
    assert [log.name.partition("-")[0] for log in logs()] == ["recent"]


@pytest.mark.parametrize("how", ["hang", "spin"])
def test_a_hung_worker_is_ended_after_the_stated_time(tmp_path: Path, how: str) -> None:
    notes, images = tmp_path / "notes", pictures(2)
    with working(how, "1", notes, timeout=0.2) as worker:
        start = time.monotonic()
        with pytest.raises(BenchError, match=r"did not answer within 0\.4 s and was ended$"):
            worker.score(images, ["a", "b"])
        assert time.monotonic() - start < 10
        (call,) = calls(notes)
        assert gone(call["pid"])
        worker.order = order(how, "1", notes)
        np.testing.assert_array_equal(
            worker.score(images, ["a", "b"]), expected(images, ["a", "b"])
        )


def test_loading_has_a_limit_of_its_own() -> None:
    with pytest.raises(BenchError, match=r"did not load within 0\.3 s and was ended$"):
        Worker(order("load slowly", load_timeout=0.3))


@pytest.mark.parametrize(("how", "option"), [("load slowly", "load_timeout"), ("hang", "timeout")])
def test_a_limit_that_is_an_option_can_be_raised(how: str, option: str) -> None:
    with (
        pytest.raises(BenchError, match=f"; if it needs longer, raise its option {option!r}$"),
        working(how, adjustable=True, **{option: 0.3}) as worker,
    ):
        worker.score(pictures(1), ["a"])


def test_a_hang_in_a_large_request_is_not_waited_for_the_longer() -> None:
    count = client.COUNTED + 12
    with (
        working("hang", timeout=0.05) as worker,
        pytest.raises(BenchError, match=r"did not answer within 0\.4 s"),
    ):
        worker.score(pictures(count), ["a"] * count)


def test_prompts_alone_have_the_time_of_one_image() -> None:
    with (
        working("hang in truncated", timeout=0.3) as worker,
        pytest.raises(BenchError, match=r"did not answer within 0\.3 s"),
    ):
        worker.truncated(["a"] * 100)


def test_a_package_missed_while_scoring_names_the_command_that_finds_it() -> None:
    with (
        working("import", remedy="run: bench env check tiny") as worker,
        pytest.raises(BenchError, match=r"'flux_cap.*log\); run: bench env check tiny$"),
    ):
        worker.score(pictures(1), ["a"])


def test_memory_that_runs_out_has_its_own_remedy() -> None:
    with (
        working("run out of memory") as worker,
        pytest.raises(
            BenchError, match=rf"^scorer 'tester': {SCORING_REMEDY} \(in its worker; log"
        ),
    ):
        worker.score(pictures(1), ["a"])


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("[enforce fail] not enough memory: you tried"),
        ValueError("not enough memory"),
        RuntimeError("shape"),
    ],
)
def test_the_worker_knows_the_same_errors_of_memory(error: Exception) -> None:
    assert describe(error)["memory"] == out_of_memory(error)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (
            "miss a package",
            r"ModuleNotFoundError: No module named 'flux_capacitor' "
            r"\(in its worker; log: .*\.log\); run: bench env check tiny$",
        ),
        ("lack weights", r"ValueError: weights are missing \(in its worker; log: .*\.log\)$"),
    ],
)
def test_a_failed_load_says_why(how: str, said: str) -> None:
    with pytest.raises(BenchError, match=rf"^scorer 'tester': {said}"):
        Worker(order(how, remedy="run: bench env check tiny"))


def test_a_missing_python_says_so(tmp_path: Path) -> None:
    python = tmp_path / "bin" / "python"
    with pytest.raises(BenchError, match=rf"{python} cannot be run: No such file.*; repair it$"):
        Worker(order(python=python, remedy="repair it"))


def test_a_python_that_dies_at_once_says_so(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho cannot open libpython >&2\nexit 127\n")
    python.chmod(0o755)
    with pytest.raises(
        BenchError,
        match=r"ended with exit code 127; its last words: cannot open libpython .*; fix$",
    ):
        Worker(order(python=python, remedy="fix"))


def test_a_wrong_number_of_scores_is_refused() -> None:
    with (
        working("lose one") as worker,
        pytest.raises(BenchError, match="'tester' gave 1 scores for 2 images"),
    ):
        worker.score(pictures(2), ["a", "b"])


def test_processes_that_libraries_started_end_with_the_worker(tmp_path: Path) -> None:
    for name in ("crash", "hang"):
        folder = tmp_path / name
        folder.mkdir()
        with working("leave a child", notes=folder / name, timeout=0.7) as worker:
            with pytest.raises(BenchError):
                worker.score(pictures(1), ["a"])
            assert gone(int((folder / "child").read_text()))


def test_an_interrupted_question_is_not_answered_to_the_next_one(tmp_path: Path) -> None:
    class Stop(BaseException):
        pass

    def stop(number: int, frame: object) -> None:
        raise Stop

    notes, images = tmp_path / "notes", pictures(1)
    previous = signal.signal(signal.SIGALRM, stop)
    try:
        with working("hang", "1", notes) as worker:
            signal.setitimer(signal.ITIMER_REAL, 0.3)
            with pytest.raises(Stop):
                worker.score(images, ["first"])
            assert gone(calls(notes)[0]["pid"])
            np.testing.assert_array_equal(worker.score(images, ["b"]), expected(images, ["b"]))
    finally:
        signal.signal(signal.SIGALRM, previous)


PARENT = """
import sys, threading
from pathlib import Path
from tests.isolation.conftest import pictures
from tests.isolation.test_worker import order
from bench.scoring.isolation.client import Worker

worker = Worker(order({how!r}, notes={notes!r}))
print(worker._process._popen.pid, flush=True)
worker.score(pictures(1), ["a"])
sys.stdin.read()
"""


@pytest.mark.parametrize("how", ["well", "spin", "hang", "leave a child"])
def test_no_worker_outlives_a_killed_parent(tmp_path: Path, how: str) -> None:
    notes = tmp_path / "hang"
    script = textwrap.dedent(PARENT).format(how=how, notes=str(notes))
    parent = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
        env=os.environ | {"TMPDIR": str(tmp_path)},
    )
    assert parent.stdout is not None
    try:
        pids = [int(parent.stdout.readline())]
        while not notes.exists() or not notes.read_text().endswith("\n"):
            time.sleep(0.02)
        if how == "leave a child":
            child = tmp_path / "child"
            while not child.exists() or not child.read_text():
                time.sleep(0.02)
            pids.append(int(child.read_text()))
        assert not any(gone(pid, 0.1) for pid in pids)
        assert len(list(tmp_path.glob("bench-worker-*"))) == 1
    finally:
        parent.kill()
        parent.communicate()
    assert all(gone(pid) for pid in pids)
    assert list(tmp_path.glob("bench-worker-*")) == []


def test_a_worker_started_in_a_thread_outlives_the_thread() -> None:
    made: list[Worker] = []
    thread = threading.Thread(target=lambda: made.append(Worker(order())))
    thread.start()
    thread.join()
    time.sleep(0.2)
    images = pictures(1)
    np.testing.assert_array_equal(made[0].score(images, ["a"]), expected(images, ["a"]))
    made[0].close()


def test_nothing_is_left_of_a_worker_that_is_forgotten(logs: Logs) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        worker = Worker(order())
        worker.score(pictures(1), ["a"])
        process = worker._process
        assert process is not None
        pid = process._popen.pid
        del worker, process
        assert gone(pid, 1.0)
    assert len(os.listdir("/proc/self/fd")) == before
    assert not logs()


def test_a_forked_copy_of_the_parent_does_not_end_the_worker() -> None:
    worker = Worker(order())
    child = os.fork()
    if child == 0:
        worker.close()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    images = pictures(1)
    process = worker._process
    np.testing.assert_array_equal(worker.score(images, ["a"]), expected(images, ["a"]))
    assert worker._process is process
    worker.close()


@pytest.mark.parametrize(
    ("device", "shown", "visible", "inside"),
    [
        ("cpu", "0,1", "", "cpu"),
        ("cuda", None, "0", "cuda"),
        ("cuda:1", None, "1", "cuda"),
        ("cuda:1", "4, 5", "5", "cuda"),
        ("cuda:0", "GPU-8f", "GPU-8f", "cuda"),
        ("mps", "0", "0", "mps"),
    ],
)
def test_the_workers_gpu_is_the_parents_choice(
    monkeypatch: pytest.MonkeyPatch, device: str, shown: str | None, visible: str, inside: str
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if shown is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
    name, variables = client.placed(device)
    assert (name, variables["CUDA_VISIBLE_DEVICES"]) == (inside, visible)


def test_the_worker_sees_its_own_packages_and_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    monkeypatch.setenv("PYTHONHOME", "")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    of_a_run = {*meeting_point(2), "RANK", "LOCAL_RANK", "TORCHELASTIC_RUN_ID", "ACCELERATE_X"}
    for name in of_a_run:
        monkeypatch.setenv(name, "1")
    with working("tell", notes=tmp_path / "notes", device="cuda:1") as worker:
        worker.score(pictures(1), ["a"])
        told = json.loads((tmp_path / "told.json").read_text())
        assert Path(told["file"]).exists()
    # Its temporary files end with it.
    assert not Path(told["file"]).parent.exists()
    assert not of_a_run & set(told["variables"])
    assert (told["variables"]["CUDA_VISIBLE_DEVICES"], told["device"]) == ("5", "cuda")
    assert not {"PYTHONPATH", "PYTHONHOME"} & set(told["variables"])
    assert told["variables"]["PYTHONNOUSERSITE"] == "1"
    assert "/elsewhere" not in told["path"]


def test_a_run_goes_on_from_the_last_finished_chunk(tmp_path: Path) -> None:
    """`score_in_chunks`, as the runner calls it: killed in the third chunk, then run again."""
    count = 2 * CHUNK + 9
    images, prompts = pictures(count), [f"prompt {i}" for i in range(count)]
    notes, work = tmp_path / "notes", tmp_path / "work"
    work.mkdir()

    def run() -> np.ndarray:
        with working("be killed", "3", notes) as worker:
            return score_in_chunks(
                lambda: worker,
                "tester",
                lambda rows: (images[i] for i in rows),
                prompts,
                work,
                lambda done: None,
            )

    with pytest.raises(BenchError, match="its worker was killed by SIGKILL"):
        run()
    np.testing.assert_array_equal(run(), expected(images, prompts))
    assert [call["images"] for call in calls(notes)] == [CHUNK, CHUNK, 9, 9]
