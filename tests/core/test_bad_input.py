"""Bad input of every kind ends in one sentence, of bounded length, with an exit code that is not 0.

What is refused here is refused before anything is trained, sampled or written.
"""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.lib import plain_yaml
from bench.lib.distributed import World
from bench.lib.errors import BenchError, UnknownNameError
from bench.lib.wording import printable, quoted, sentence
from bench.recipe.recipe import load, validate
from bench.registry.registry import default_registry
from bench.registry.spec_language import parse, split_list
from tests.commands import Bench, in_folder
from tests.leaderboard import small_board

RECIPE = """
backbone: shapes
pairs: shapes
prompts: shapes-parti
scorers: [gold]
methods: [dpo]
training: {steps: 3, batch_size: 2}
sampling: {steps: 2, guidance: 1}
"""
LONGEST = 4_200


@pytest.fixture
def bench(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Bench:
    return in_folder(tmp_path, monkeypatch, capsys)


def refused(bench: Bench, *arguments: str) -> str:
    """The one sentence that a command ends with."""
    code, _, errors = bench(*arguments)
    assert code not in (0, -1), errors
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    assert len(errors) < LONGEST
    assert "Traceback" not in errors
    assert printable(errors) == errors
    return errors


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("dpo[beta=nan]", "finite number"),
        ("dpo[beta=inf]", "finite number"),
        ("dpo[beta=-inf]", "finite number"),
        ("dpo[learning_rate=1e999]", "finite number"),
        ("dpo[beta=1_000]", "not a plain number"),
        ("dpo[beta=１]", "not a plain number"),
        ("dpo[beta=true]", "should be a valid number"),
        ("dpo[beta=]", "should be a valid number"),
        ("balanced[reference=hard_copy[every=1_0]]", "not a plain number"),
        ("balanced[reference=hard_copy[every=1.5]]", "valid integer"),
        (f"balanced[reference=hard_copy[every={'9' * 5000}]]", "integer"),
        (f"balanced[reference=hard_copy[every={2**63}]]", "64 bits"),
        ("smpo[loss=smoothed_sigmoid[gamma=nan]]", "finite number"),
        ("dpo[", "without its ']'"),
        ("dpo[]]", "without its '['"),
        ("dpo[beta=1]x", "not of the form"),
        ("dpo[beta=1,beta=2]", "is given twice"),
        ("dpo[beta=[1]", "without its ']'"),
        ("dpo" + "[labels=a" * 10_000 + "]" * 10_000, "brackets in each other"),
        ("[" * 10_000, "brackets in each other"),
        ("]" * 10_000, "without its '['"),
        (",", "at least 1 item"),
        (" , ,", "at least 1 item"),
        ("ｄｐｏ", "unknown method"),
        ("dpo\x1b[31m]", "U+001B"),
        ("d\npo", "U+000A"),
        ("dpo\udcff", "U+DCFF"),
        ("x" * 9_000, "unknown method"),
        ("x" * 90_000, "90,000 characters"),
        ("dpo:", "not of the form"),
        ("=", "not of the form"),
    ],
)
def test_methods_that_are_none(bench: Bench, spec: str, said: str) -> None:
    assert said in refused(bench, "run", "--dry-run", "--methods", spec)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--set", "training.weight_decay=.inf"],
            "training.weight_decay: input should be a finite",
        ),
        (["--set", "training.max_grad_norm=.nan"], "finite number"),
        (["--set", "sampling.guidance=.inf"], "finite number"),
        (["--set", "training.lora_alpha=1e999"], "is not a YAML value"),
        (["--set", "training.steps=true"], "training.steps: input should be a valid integer"),
        (["--set", "training.steps=5.0"], "valid integer"),
        (["--set", "training.steps='5'"], "valid integer"),
        (["--set", "training.steps=1_000"], "valid integer"),
        (["--set", "training.steps=1:30"], "valid integer"),
        (["--set", "training.steps=0x10"], "valid integer"),
        (["--set", "sampling.steps=0"], "greater than or equal to 1"),
        (["--set", "generate={prompts: [a], images_per_prompt: 1}"], "than or equal to 2"),
        (["--set", "training.weight_decay=-1"], "greater than or equal to 0"),
        (["--set", "training.prompt_dropout=1.5"], "less than or equal to 1"),
        (["--set", "training.warmup_steps=-1"], "greater than or equal to 0"),
        (["--set", "filters.max_pairs=0"], "greater than or equal to 1"),
        (["--set", "sampling.steps=1001"], "less than or equal to 1000"),
        (["--set", f"training.steps={10**18}"], "less than or equal to 1000000000"),
        (["--set", f"training.steps={'9' * 5000}"], "is not a YAML value"),
        (["--set", "training.steps=2024-01-01"], "valid integer"),
        (["--set", "training.steps="], "valid integer"),
        (["--set", "training.weight_decay=true"], "valid number"),
        (["--set", "training.tf32=yes"], "training.tf32: input should be a valid boolean"),
        (["--set", "framing.flip=1"], "valid boolean"),
        (["--set", "sampling.image_seeds=[0, 0]"], "image_seeds: the seed 0 is there twice"),
        (["--set", "sampling.image_seeds=[-1]"], "greater than or equal to 0"),
        (["--set", f"sampling.image_seeds=[{2**63}]"], "less than 9223372036854775808"),
        (["--set", "sampling.image_seeds=3"], "expected a list such as [0, 1], not 3"),
        (["--seeds", "0,1,0"], "seeds: the seed 0 is there twice"),
        (["--seeds", f"{2**63}"], "less than 9223372036854775808"),
        (["--seeds", "-1"], "greater than or equal to 0"),
        (["--seeds", "1_000"], "expected whole numbers"),
        (["--seeds", "9" * 5000], "expected whole numbers"),
        (["--seeds", "٣"], "expected whole numbers"),
        (["--seeds", ","], "expected whole numbers"),
        (["--limit", "0"], "limit: input should be greater than or equal to 1"),
        (["--limit", "-3"], "greater than or equal to 1"),
        (["--limit", "x"], "Invalid value for '--limit'"),
        (["--num-processes", "0"], "Invalid value for '--num-processes'"),
        (["--num-processes", "-2"], "Invalid value for '--num-processes'"),
        (["--set", "training=5"], "training: expected keys (steps, batch_size"),
        (["--set", "training=[1]"], "training: expected keys"),
        (["--set", "methods=[dpo, [sft]]"], "is not a plugin's name"),
        (["--set", "methods=5"], "methods: expected a list, not 5"),
        (["--set", "methods="], "methods: expected a list, not None"),
        (["--set", "nope=1"], "unknown recipe key 'nope'"),
        (["--set", "training.a.b.c=1"], "expected a recipe's key, or a block and its key"),
        (["--set", ".".join("a" * 10_000) + "=1"], "expected a recipe's key"),
        (["--set", "training..steps=1"], "expected a recipe's key"),
        (["--set", ".=1"], "expected a recipe's key"),
        (["--set", "=5"], "expected key=value"),
        (["--set", "training.steps"], "expected key=value"),
        (["--set", "pairs={a: &x [1], b: *x}"], "is not a YAML value"),
        (["--set", "limit=" + "[" * 10_000], "is not a YAML value"),
        (["--set", 'name="a\\u001b[2Jb"'], "name: 'a\\x1b[2Jb': holds U+001B"),
        (["--set", 'name="\\ud800"'], "holds U+D800"),
        (["--set", 'name="a\\nb"'], "holds U+000A"),
        (["--set", "name=" + "x" * 300], "name: string should have at most 100 characters"),
        (["--set", 'name=""'], "name: string should have at least 1 character"),
        (["--out", ""], "--out: an empty value"),
        (["--store="], "--store: an empty value"),
        (["--recipe", ""], "--recipe: an empty value"),
        (["--methods", ""], "--methods: an empty value"),
        (["--recipe", "owner/name"], "cannot be read (No such file or directory); a preset is"),
        (["--recipe", "~nobody-of-this-name/x.yaml"], "no such user's folder"),
        (["--recipe", "a" * 5000 + ".yaml"], "File name too long"),
        (["--recipe", "x\0.yaml"], "U+0000"),
        (["--prompts", "a" * 5000 + ".txt"], "there is no such file or folder"),
        (["--prompts", "nateraw/parti-prompts"], "parti[path=nateraw/parti-prompts]"),
        (["--set", "pairs=owner/name"], "pickapic[path=owner/name]"),
        (["--set", "pairs=table:~nobody-of-this-name/x.csv"], "no such user's folder"),
        (["--nope"], "No such option"),
    ],
)
def test_settings_that_are_none(bench: Bench, arguments: list[str], said: str) -> None:
    assert said in refused(bench, "run", "--dry-run", *arguments)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "expected a mapping of recipe keys"),
        ("a: [", "not valid YAML: line 1"),
        (RECIPE + "limit: 1\nlimit: 2\n", "line 10: the key 'limit' is there twice"),
        (RECIPE.replace("{steps: 3,", "{steps: 3, steps: 4,"), "the key 'steps' is there twice"),
        (RECIPE + "filters: &f {ties: keep}\nframing: *f\n", "anchors and aliases (&, *) are not"),
        (
            "a: &a ["
            + "lol," * 9
            + "]\n"
            + "".join(
                f"{k}: &{k} [{','.join([f'*{j}'] * 9)}]\n"
                for j, k in zip("abcdefg", "bcdefgh", strict=True)
            )
            + "methods: *h\n",
            "anchors and aliases",
        ),
        (RECIPE + "limit: !!python/object/apply:os.system [ls]\n", "the tag 'tag:yaml.org"),
        (RECIPE + "limit: !mine 3\n", "the tag '!mine' is not read"),
        (RECIPE + "limit: 2024-01-01\n", "limit: input should be a valid integer"),
        (RECIPE + "limit: 1:30\n", "limit: input should be a valid integer"),
        (RECIPE + "limit: 0o17\n", "limit: input should be a valid integer"),
        (RECIPE + f"limit: {'1' * 5000}\n", "a number of 5,000 characters"),
        (RECIPE + "limit: {a: " + "[" * 9_000, "nested too deeply"),
        ("- " * 9_000 + "1", "nested too deeply"),
        (RECIPE + "1: 2\n", "the key 1 is not a text"),
        (RECIPE + "? [a]\n: 2\n", "is not a text"),
        (RECIPE + "null: 2\n", "the key None is not a text"),
        (RECIPE + "---\na: 1\n", "another document"),
        (RECIPE + "name: \x07\n", "special characters are not allowed"),
        (RECIPE + 'name: "\\ud83d"\n', "holds U+D83D"),
        (RECIPE + 'name: "\\e[2J"\n', "holds U+001B"),
        (RECIPE + "name: 5\n", "name: input should be a valid string"),
        (RECIPE + "name: " + "x" * (1 << 18), "has more than the 256 KiB that are read"),
        (RECIPE.replace("methods: [dpo]", "methods: [{dpo: {beta: .nan}}]"), "finite number"),
        (RECIPE.replace("methods: [dpo]", "methods: [{dpo: 5}]"), "its options must be a mapping"),
        (RECIPE.replace("methods: [dpo]", "methods: [{}]"), "one key with its options below"),
        (
            RECIPE.replace(
                "methods: [dpo]", "methods: " + "[{dpo: {labels: " * 12 + "a" + "}}]" * 12
            ),
            "nested too deeply",
        ),
        (RECIPE.replace("steps: 3", "steps: true"), "training.steps: input should be a valid int"),
        (
            RECIPE.replace("{steps: 3, batch_size: 2}", ""),
            "recipe 'mine': method 'dpo' is trained, but there is no `training`",
        ),
        ("extends: mine.yaml\n", "extends itself"),
        ("extends: ./other.yaml\n", "extends itself"),
        ("extends: [x]\n", "expected a preset's name or a file"),
        ("extends: 0.yaml\n", "more than 10 recipes that extend one another"),
        ("extends: gone.yaml\n", "cannot be read"),
    ],
)
def test_recipes_that_are_none(bench: Bench, tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    (tmp_path / "other.yaml").write_text("extends: ./mine.yaml\n")
    for i in range(50):
        (tmp_path / f"{i}.yaml").write_text(f"extends: {i + 1}.yaml\n")
    errors = refused(bench, "run", "--dry-run", "--recipe", "mine.yaml")
    assert said in errors
    assert "mine" in errors or ".yaml" in errors or "dpo[" in errors


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\xff\xfen\x00a\x00", "not UTF-8 but UTF-16"),
        (b"name: a\n\xff\n", "line 2: not UTF-8 (byte 0xff)"),
        (b"name: a\n\x00\n", "line 2: holds a NUL"),
        (bytes(range(100, 200)) + b"\xff", "UTF-"),
    ],
)
def test_recipes_that_are_no_text(bench: Bench, tmp_path: Path, data: bytes, said: str) -> None:
    (tmp_path / "mine.yaml").write_bytes(data)
    errors = refused(bench, "run", "--dry-run", "--recipe", "mine.yaml")
    assert said in errors or "NUL" in errors


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as open_:
        open_.bind(str(path))


def _device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _loop(path: Path) -> None:
    path.symlink_to(path)


@pytest.mark.parametrize("make", [_pipe, _socket, _device, Path.mkdir, _loop])
def test_what_is_no_file_is_never_opened(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], None]
) -> None:
    names = ("r.yaml", "p.txt", "p.csv", "p.json", "p.jsonl", "p.parquet", "p.tsv")
    monkeypatch.chdir(tmp_path)
    for name in names:
        make(Path(name))
    refused(bench, "run", "--dry-run", "--recipe", "r.yaml")
    for name in names[1:]:
        refused(bench, "run", "--dry-run", "--prompts", name)
        refused(bench, "run", "--dry-run", "--prompts", f"file[path={name}]")
        refused(bench, "run", "--dry-run", "--set", f"pairs={name}")
        refused(bench, "run", "--dry-run", "--set", f"pairs=table:{name}")
        refused(bench, "data", "check", f"hpd:{name}")
        refused(bench, "score", name, "--scorers", "gold")


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"WORLD_SIZE": "abc"}, "WORLD_SIZE is 'abc', not a number"),
        ({"WORLD_SIZE": "9" * 5000}, "not a number"),
        ({"WORLD_SIZE": "0"}, "describe no group"),
        ({"WORLD_SIZE": "-1"}, "not a number"),
        ({"WORLD_SIZE": "2"}, "RANK is not set"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, "describe no group"),
        ({"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "x"}, "LOCAL_RANK is 'x'"),
        ({"RANK": "one"}, "RANK is 'one'"),
        ({"RANK": "1"}, "describe no group"),
    ],
)
def test_junk_of_a_launcher(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], said: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    errors = refused(bench, "run")
    assert said in errors
    assert "let accelerate or torchrun set them" in errors


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({}, "MASTER_ADDR is not set"),
        ({"MASTER_ADDR": "127.0.0.1"}, "MASTER_PORT is not set"),
        ({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "http"}, "MASTER_PORT is 'http'"),
        ({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "99999"}, "MASTER_PORT=99999 is no port"),
    ],
)
def test_processes_that_cannot_meet(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], said: str
) -> None:
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(BenchError, match=said):
        World(rank=0, size=2).connect("cpu")


def _start(arguments: list[str], cwd: Path, **environment: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "bench", *arguments],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={"PATH": "/usr/bin:/bin", "HOME": str(cwd), **environment},
    )


@pytest.mark.parametrize(
    "environment",
    [
        {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"},
        {"PYTHONIOENCODING": "latin-1:strict", "COLUMNS": "1"},
        {"COLUMNS": "abc", "NO_COLOR": "1", "TERM": "dumb"},
        {"COLUMNS": "0", "FORCE_COLOR": "1"},
        {"HOME": "/nonexistent", "TMPDIR": "/nonexistent"},
        {"BENCH_DISABLED_PLUGINS": ",, \x01 no-such ;;"},
    ],
)
def test_every_terminal_and_environment_gets_the_list(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    with _start(["plugins"], tmp_path, **environment) as process:
        output, errors = process.communicate()
    assert (process.returncode, errors) == (0, b"")
    assert b"smpo" in output


def test_an_ascii_terminal_gets_the_help_of_a_plugin_and_an_error(tmp_path: Path) -> None:
    ascii_ = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    for arguments, code in ((["plugins", "smpo"], 0), (["plugins", "sm\u00fcpo"], 1)):
        with _start(arguments, tmp_path, **ascii_) as process:
            _, errors = process.communicate()
        assert process.returncode == code
        assert b"Traceback" not in errors


def test_who_stops_reading_early_is_no_error(tmp_path: Path) -> None:
    with _start(["plugins"], tmp_path) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        errors = process.stderr.read()
    assert errors == b""


def test_a_closed_output_is_no_error(tmp_path: Path) -> None:
    command = f"exec {sys.executable} -m bench plugins >&- 2>&-"
    done = subprocess.run(["sh", "-c", command], cwd=tmp_path, check=False, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


@pytest.mark.parametrize("share", ["nan", "-1", "1.5", "inf"])
def test_a_share_is_from_0_to_1(bench: Bench, share: str) -> None:
    errors = refused(bench, "data", "check", "shapes", f"--max-broken-share={share}")
    assert "expected a share from 0 to 1" in errors


def test_at_most_five_close_names_are_listed() -> None:
    names = [f"method-{i}" for i in range(400)]
    close = str(UnknownNameError("method", "method-1000", names))
    assert close.count("'method-") == 1 + 5
    assert "Known" not in close
    far = str(UnknownNameError("method", "zzz", names))
    assert far.endswith(
        "Known: method-0, method-1, method-10, method-100, method-101, ... (400 in all)."
    )


def test_quotes_of_values_are_short() -> None:
    deep: list[object] = []
    for _ in range(5_000):
        deep = [deep]
    for value in ("x" * 10**6, deep, dict.fromkeys(range(10**5), "y" * 999), 10**3000):
        assert len(quoted(value)) < 1_000
    assert len(sentence("word " * 10**6)) <= 4_000
    assert sentence("a\n  b\x1b[2J\ud800\u202e") == r"a b\x1b[2J\ud800\u202e"


def test_what_is_written_reads_back_the_same() -> None:
    names = ["no", "1e5", "012", "1:30", "null", "~", "", "2024-01-01", "é", "[a]", "# x", "0x1"]
    data = {"texts": names, "numbers": [1, -2, 1e-5, 1e22, 0.1], "flags": [True, False, None]}
    assert plain_yaml.load(plain_yaml.dump(data)) == data


def test_a_recipe_extends_the_one_beside_it(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "base.yaml").write_text(RECIPE)
    (tmp_path / "sub" / "mine.yaml").write_text("extends: ./base.yaml\nlimit: 3\n")
    assert load(default_registry(), str(tmp_path / "sub" / "mine.yaml")).limit == 3


def test_names_are_printed_as_they_are(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(RECIPE + 'name: "[red]x[/] :smile: [/nope]"\nlimit: 1\n')
    code, output, errors = bench("run", "--dry-run", "--recipe", "mine.yaml")
    assert (code, errors) == (0, "")
    assert "Plan of recipe '[red]x[/] :smile: [/nope]'" in output


def test_control_codes_of_plugins_and_files_never_reach_the_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from rich.table import Table

    from bench.cli import output

    table = Table("\x1b]0;title\x07")
    table.add_row("a\x1b[2Jb")
    console = output.console()
    console.print("x\x1b[31my\x9b", markup=False)
    console.print(table)
    output.complain("a\x1b[2Jb")
    printed = capsys.readouterr()
    assert "\x1b" not in printed.out + printed.err
    assert "\x9b" not in printed.out
    assert r"x\x1b[31my\x9b" in printed.out


@pytest.mark.parametrize("value", [float("nan"), float("inf"), True, "5", 2**70])
def test_python_gets_the_same_checks(value: object) -> None:
    data = plain_yaml.load(RECIPE) | {"name": "x"}
    with pytest.raises(BenchError, match=r"training\.steps"):
        validate(data | {"training": {"steps": value, "batch_size": 1}}, "here")
    with pytest.raises(BenchError):
        parse({"dpo": {"labels": {str(i): {} for i in range(3)}}})
    with pytest.raises(BenchError):
        split_list("[" * 99)


def test_a_disk_that_is_full_while_a_board_is_built(tmp_path: Path) -> None:
    board = small_board.save(tmp_path / "board", small_board.cells())
    before = {path: path.read_bytes() for path in board.rglob("*") if path.is_file()}
    done = subprocess.run(
        [sys.executable, "-m", "bench", "leaderboard", "build", str(board)],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10)),
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert "cannot be written (File too large)" in done.stderr
    assert {path: path.read_bytes() for path in board.rglob("*") if path.is_file()} == before
