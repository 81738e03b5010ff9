"""Tables of prompts, pairs and images that people made: broken ones are named by file and row."""

from __future__ import annotations

import io
import json
import os
import struct
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bench_plugins.preference_sets import HPD, PairsTable, PickAPic
from bench_plugins.preference_sets.mapping import Columns, ImageColumns, pairs_of
from bench_plugins.preference_sets.records import HubTable, root_of
from bench_plugins.prompt_sets import HPDv2, PromptFile
from PIL import Image

import bench
from bench.diffusion.files import read_json
from bench.leaderboard import tables
from bench.lib import images, reading
from bench.lib import tables as lib_tables
from bench.lib.errors import BenchError
from bench.lib.reading import below, decode_json, json_value
from bench.lib.tables import Row
from bench.scoring.manifests import open_manifest
from tests import toy


def png(color: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (color, 0, 0)).save(buffer, format="PNG")
    return buffer.getvalue()


def bomb(width: int, height: int) -> bytes:
    """A few bytes of PNG that claim to be a picture of that size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(b"\0" * 10_000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder `here` with a picture, beside what no table in it may name."""
    (tmp_path / "secret.png").write_bytes(png(9))
    here = tmp_path / "here"
    here.mkdir()
    (here / "0.png").write_bytes(png())
    (here / "sub").mkdir()
    (here / "sub" / "1.png").write_bytes(png(1))
    (here / "out.png").symlink_to(tmp_path / "secret.png")
    (here / "inside.png").symlink_to("sub/1.png")
    (here / "up").symlink_to(tmp_path)
    (here / "broken.png").symlink_to("gone.png")
    (here / "loop.png").symlink_to("loop.png")
    os.mkfifo(here / "pipe.png")
    (here / "zero.png").symlink_to("/dev/zero")
    return here


OUTSIDE = [
    "../secret.png",
    "sub/../../secret.png",
    "/etc/passwd",
    "/dev/zero",
    "/proc/self/environ",
    "out.png",
    "zero.png",
    "up/secret.png",
]
UNREADABLE = ["pipe.png", "sub", ".", "loop.png", "a" * 5_000, "a\0b", "0.png/x"]
GONE = ["gone.png", "broken.png"]


@pytest.mark.parametrize("name", ["0.png", "sub/1.png", "./sub/../0.png", "inside.png"])
def test_files_below_the_folder_are_found(folder: Path, name: str) -> None:
    assert below(folder, name).is_file()
    assert below(folder, str(folder / name)) == below(folder, name)


@pytest.mark.parametrize("name", [*OUTSIDE, *UNREADABLE, *GONE])
def test_nothing_else_is_a_picture_of_a_table(folder: Path, name: str) -> None:
    sides = (ImageColumns(image="chosen"), ImageColumns(image="rejected"))
    columns = Columns(prompt="prompt", images=sides, label=None)
    record = {"prompt": "a", "chosen": "0.png", "rejected": name}
    for cell in (name, {"bytes": None, "path": name}):
        (pair,) = pairs_of([Row(3, "", record | {"rejected": cell})], columns, folder, "t.csv")
        assert pair.images[0].data
        assert pair.images[1].data == b""
        assert pair.problem.startswith("rejected: ")
        assert len(pair.problem) < 6_000
        assert ("lies outside" in pair.problem) == (name in OUTSIDE)


@pytest.mark.parametrize("name", [*OUTSIDE, *UNREADABLE, *GONE])
def test_a_list_of_images_names_none_outside_of_its_folder(folder: Path, name: str) -> None:
    table = folder / "list.jsonl"
    rows = [{"image": "0.png", "prompt": "a"}, {"image": name, "prompt": "b"}]
    table.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(BenchError, match=r"list\.jsonl: ") as caught:
        open_manifest(table)
    assert ("lies outside" in str(caught.value)) == (name in OUTSIDE)
    if name not in GONE:
        assert "list.jsonl: line 2: image" in str(caught.value)
    pq.write_table(pa.Table.from_pylist(rows), folder / "list.parquet")
    with pytest.raises(BenchError, match=r"list\.parquet: "):
        open_manifest(folder / "list.parquet")


@pytest.mark.parametrize("name", [*OUTSIDE, "pipe.png"])
def test_every_format_of_pairs_stays_in_its_folder(folder: Path, name: str) -> None:
    v2 = {"prompt": "a", "image_path": ["0.png", name], "human_preference": [1, 0]}
    v3 = {"prompt": "a", "path1": "0.png", "path2": name}
    for number, entry in enumerate((v2, v3)):
        (folder / f"{number}.json").write_text(json.dumps([entry]))
        (pair,) = HPD(path=str(folder / f"{number}.json")).read()
        assert [*map(bool, toy.encoded(pair))] == [True, False]
    if "\0" not in name:
        (folder / "t.csv").write_text(f"prompt,chosen,rejected\na,0.png,{name}\n")
        (pair,) = PairsTable(path=str(folder / "t.csv")).read()
        assert [*map(bool, toy.encoded(pair))] == [True, False]
    cell = {"bytes": None, "path": name}
    row = {"caption": "a", "jpg_0": {"bytes": png(), "path": "x"}, "jpg_1": cell, "label_0": 1.0}
    pq.write_table(pa.Table.from_pylist([row]), folder / "p.parquet")
    (pair,) = PickAPic(path=str(folder / "p.parquet")).read()
    assert [*map(bool, toy.encoded(pair))] == [True, False]


def test_the_folder_of_images_can_be_named(folder: Path) -> None:
    (folder / "t.csv").write_text("prompt,chosen,rejected\na,here/0.png,secret.png\n")
    (pair,) = PairsTable(path=str(folder / "t.csv"), images=str(folder.parent)).read()
    assert pair.problem == ""
    assert pair.images[1].data == png(9)


def test_a_set_of_the_hub_names_no_file_here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    root = root_of(HubTable(repo="owner/name", named_split="", revision="main"))
    sides = (ImageColumns(image="a"), ImageColumns(image="b"))
    columns = Columns(prompt="prompt", images=sides, label=None)
    record = {"prompt": "x", "a": {"bytes": None, "path": "0.png"}, "b": "0.png"}
    (pair,) = pairs_of([Row(0, "", record)], columns, root, "owner/name")
    assert toy.encoded(pair) == (b"", b"")
    assert "give it with images=" in pair.problem


def test_an_image_has_a_largest_size(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench_plugins.preference_sets.mapping.MOST_IMAGE", 10)
    (folder / "t.csv").write_text("prompt,chosen,rejected\na,0.png,0.png\n")
    (pair,) = PairsTable(path=str(folder / "t.csv")).read()
    assert "has more than" in pair.problem


@pytest.mark.parametrize("size", [(60_000, 60_000), (10_000, 9_000), (2**31 - 1, 2**31 - 1)])
def test_few_bytes_with_many_pixels_are_not_decoded(size: tuple[int, int]) -> None:
    data = bomb(*size)
    with pytest.raises(ValueError, match=r"pixels|size"):
        images.decode(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 100,
        png()[:40],
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(%pipe%id) (r) file\n",
        b"GIF89a" + b"\xff" * 40,
        b"BM" + b"\xff" * 60,
        b"II*\0" + b"\xff" * 60,
        b"\xff\xd8\xff" + b"\xff" * 60,
        b"RIFF\xff\xff\xff\xffWEBPVP8 " + b"\xff" * 60,
    ],
)
def test_broken_bytes_are_a_reason(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        images.decode(data)


@pytest.mark.parametrize("start", range(0, 68, 3))
def test_flipped_bytes_are_a_picture_or_a_reason(start: int) -> None:
    data = bytearray(png())
    for bit in range(8):
        data[start] ^= 1 << bit
        with suppress(ValueError):
            assert images.decode(bytes(data)).mode == "RGB"
        data[start] ^= 1 << bit


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ("9" * 5_000, "4300"),
        ('{"a": 1, "a": 2}', "the key 'a' is there twice"),
        (r'"\ud800"', "half of a character"),
        (r'["x", {"\uDFFF": 1}]', "half of a character"),
        ("[1] 2", "Extra data"),
        ("", "Expecting value"),
    ],
)
def test_json_that_is_not_read(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        json_value(text)


def test_whole_characters_are_read() -> None:
    assert json_value(r' ["\ud83d\ude00", "😀"] ') == ["😀", "😀"]
    assert decode_json('x{"a": 1}y', 1) == ({"a": 1}, 9)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("p.txt", "", "holds no prompt"),
        ("p.txt", "a\n \t \nb\n", "line 2: 'prompt' is empty"),
        ("p.txt", b"a\nb\0c\n", "line 2: holds a NUL"),
        ("p.txt", "a\n".encode("utf-16"), "not UTF-8 but UTF-16"),
        ("p.txt", b"a\n\xff\xff\n", r"line 2: not UTF-8"),
        ("p.csv", "", "the first line is empty"),
        ("p.csv", "prompt\n", "holds no prompt"),
        ("p.csv", "prompt,prompt\na,b\n", "the column 'prompt' is there twice"),
        ("p.csv", "prompt;category\na;b\n", "no column is called prompt"),
        ("p.csv", "prompt,category\na,b,c\n", "line 2 has 3 of 2 columns"),
        ("p.csv", 'prompt\n"a\n', "line 2: .*a quoted field ends with a quote"),
        ("p.csv", "prompt\n" + "x" * 200_000 + "\n", "line 2: a cell has more than the 131,072"),
        ("p.tsv", "Prompt\tCategory\n" + "x" * 200_000 + "\tb\n", "a cell has more than"),
        ("p.csv", ",".join(f"c{i}" for i in range(9_000)) + "\n", r"\(9,000 in all\)"),
        ("p.json", "", "line 1: not valid JSON"),
        ("p.json", "{}", "expected a JSON list"),
        ("p.json", "[1]", "entry 0 is of type int"),
        ("p.json", '["a", {"prompt": "b"}]', "entry 1 is of type dict"),
        ("p.json", '["a", ""]', "entry 1: 'prompt' is empty"),
        ("p.json", '[{"prompt": 5}]', "'prompt' holds int, no text"),
        ("p.json", '[{"prompt": ["a"]}]', "holds list, no text"),
        ("p.json", "[" * 100_000, "nested too deeply"),
        ("p.json", r'["\ud800"]', "half of a character"),
        ("p.json", "[" + "9" * 5_000 + "]", "4300"),
        ("p.json", '[{"prompt": "a", "prompt": "b"}]', "the key 'prompt' is there twice"),
        ("p.jsonl", '"a"\n{\n', "line 2: not valid JSON"),
        ("p.jsonl", '"a"\n' + "[" * 100_000 + "\n", "line 2: not valid JSON .nested too deeply"),
        ("p.jsonl", '{"prompt": null}\n', "line 1: 'prompt' is empty"),
        ("p.jsonl", '{"prompt": "a", "category": {"x": 1}}\n', "'category' holds dict"),
        ("p.parquet", b"PAR1nope", "not a readable Parquet file"),
        ("p.parquet", b"", "not a readable Parquet file"),
    ],
)
def test_prompts_that_cannot_be_read(
    tmp_path: Path, name: str, content: str | bytes, said: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(BenchError, match=said) as caught:
        PromptFile(path=str(path)).load()
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 1_000


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"prompt": [["a"], ["b"]]}, "row 0: 'prompt' holds list, no text"),
        ({"prompt": [1, 2]}, "row 0: 'prompt' holds int, no text"),
        ({"prompt": ["a", None]}, "row 1: 'prompt' is empty"),
        ({"prompt": [b"a", b"b"]}, "row 0: 'prompt' holds bytes"),
        ({"prompt": [{"a": 1}, None]}, "row 0: 'prompt' holds dict"),
        ({"prompt": ["a", "b"], "category": [["x"], ["y"]]}, "row 0: 'category' holds list"),
    ],
)
def test_parquet_of_wrong_types(tmp_path: Path, columns: dict[str, Any], said: str) -> None:
    pq.write_table(pa.table(columns), tmp_path / "p.parquet")
    with pytest.raises(BenchError, match=said):
        PromptFile(path=str(tmp_path / "p.parquet")).load()


def test_parquet_with_a_column_twice_or_text_that_is_none(tmp_path: Path) -> None:
    twice = pa.table([["a"], ["b"]], names=["prompt", "prompt"])
    pq.write_table(twice, tmp_path / "p.parquet")
    with pytest.raises(BenchError, match="the column 'prompt' is there twice"):
        PromptFile(path=str(tmp_path / "p.parquet")).load()
    with pytest.raises(BenchError, match="is there twice"):
        list(PairsTable(path=str(tmp_path / "p.parquet")).read())
    with pytest.raises(BenchError, match="is there twice"):
        open_manifest(tmp_path / "p.parquet")
    broken = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(struct.pack("<ii", 0, 1)), pa.py_buffer(b"\xff")]
    )
    pq.write_table(pa.table({"prompt": broken}), tmp_path / "q.parquet")
    with pytest.raises(BenchError, match=r"q\.parquet"):
        PromptFile(path=str(tmp_path / "q.parquet")).load()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.txt", "\ufeffone\r\ntwo\rthree\n"),
        ("p.csv", "\ufeffprompt\r\none\ntwo\r\nthree"),
        ("p.json", '\ufeff["one",\r\n"two", "three"]'),
        ("p.jsonl", '\ufeff"one"\r\n"two"\n\n"three"\n\n'),
    ],
)
def test_marks_and_line_ends_of_every_system_are_read(
    tmp_path: Path, name: str, content: str
) -> None:
    (tmp_path / name).write_bytes(content.encode())
    prompts = PromptFile(path=str(tmp_path / name)).load()
    assert [prompt.text for prompt in prompts] == ["one", "two", "three"]


FORMS = {
    "p.txt": "one \u2028é\r\ntwo\rthree\n",
    "p.csv": 'prompt,n\r\n"one, \n\u2028é",1\r\ntwo,2\n"th""ree",3',
    "p.tsv": 'prompt\tn\n"one \u2028é\t1\ntwo\t2\n',
    "p.json": '[ "one \\ud83d\\ude00 é" ,\r\n"two", "[3],"\n]\n',
    "o.json": '[{"prompt": "one é", "n": [1, {}]},\n {"prompt": "two", "n": -1.5e3}]',
    "p.jsonl": '{"prompt": "one é"}\r\n\n{"prompt": "two"}',
}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("block", [1, 2, 3, 7])
def test_it_does_not_matter_where_blocks_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, block: int
) -> None:
    path = tmp_path / name
    path.write_bytes(b"\xef\xbb\xbf" + FORMS[name].encode())
    whole = list(lib_tables.read(path).read(["prompt"]))
    assert len(whole) >= 2
    assert whole[0].cells["prompt"].startswith(("one", '"one'))
    monkeypatch.setattr(reading, "BLOCK", block)
    table = lib_tables.read(path)
    assert list(table.read(["prompt"])) == whole
    assert list(table.read(["prompt"], [1])) == whole[1:2]
    assert table.count() == len(whole)
    with pytest.raises(BenchError, match=f"there is no row 9; it has {len(whole)} rows"):
        list(table.read(["prompt"], [0, 9]))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("p.txt", b"a\r\nb\nc\xff\n", "line 3: not UTF-8 .byte 0xff"),
        ("p.txt", b"a\nb\nc\xc3", "line 3: not UTF-8 .byte 0xc3"),
        ("p.txt", b"a\nb\0\n", "line 2: holds a NUL"),
        ("p.json", b'["a",\n"b"\n"c"]', "line 3: not valid JSON .Expecting ',' delimiter"),
        ("p.json", b'["a",\n]', "line 2: not valid JSON .Expecting value"),
        ("p.json", b'["a"]\n["b"]', "line 2: not valid JSON .Extra data"),
        ("p.json", b'["a",\n"b\nc"]', "line 2: not valid JSON .Invalid control character"),
        ("p.json", b'["a",\n"b', "line 2: not valid JSON .Unterminated string"),
        ("p.json", b'["a", 12]', "entry 1 is of type int"),
        ("p.jsonl", b'"a"\n\n{"b"}', "line 3: not valid JSON"),
    ],
)
@pytest.mark.parametrize("block", [1, 5, 1 << 20])
def test_what_is_wrong_is_named_by_its_line_in_every_block(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    content: bytes,
    said: str,
    block: int,
) -> None:
    monkeypatch.setattr(reading, "BLOCK", block)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BenchError, match=said):
        lib_tables.read(tmp_path / name).count()


def test_a_line_has_a_longest_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "LONGEST", 1000)
    monkeypatch.setattr(reading, "BLOCK", 100)
    (tmp_path / "p.txt").write_text("a\n" + "x" * 5000)
    with pytest.raises(BenchError, match="line 2: has more than the 1,000 characters"):
        lib_tables.read(tmp_path / "p.txt").count()


def test_a_long_line_of_json_is_read_and_an_endless_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "p.json"
    path.write_text(json.dumps(["word " * 100] * 20_000))
    assert len(HPDv2(path=str(path)).load()) == 20_000
    defaults = {"blank_lines": False, "most": 1 << 20}
    monkeypatch.setattr(lib_tables.read, "__kwdefaults__", defaults)
    with pytest.raises(BenchError, match="more than the 1 MiB that are read"):
        HPDv2(path=str(path)).load()


def _hpd(entry: object) -> Callable[[Path], HPD]:
    def write(folder: Path) -> HPD:
        (folder / "train.json").write_text(json.dumps([entry]))
        return HPD(path=str(folder / "train.json"))

    return write


@pytest.mark.parametrize(
    "entry",
    [
        {"prompt": "a", "image_path": ["0.png", "0.png"], "human_preference": 5},
        {"prompt": "a", "image_path": ["0.png", "0.png"], "human_preference": [float("nan"), 1]},
        {"prompt": "a", "image_path": ["0.png", "0.png"], "human_preference": [float("inf"), 1]},
        {"prompt": "a", "image_path": ["0.png", "0.png"], "human_preference": [True, False]},
        {"prompt": "a", "image_path": ["0.png", "0.png"], "human_preference": ["1", "0"]},
        {"prompt": "a", "image_path": ["0.png", "0.png"], "human_preference": {"0": 1}},
        {"prompt": "a", "image_path": ["0.png", "0.png"], "human_preference": [-1, 1]},
        {"prompt": "a", "image_path": "0.png", "human_preference": [1, 0]},
        {"prompt": "a", "image_path": None, "human_preference": None},
        {"prompt": 5, "image_path": ["0.png", "0.png"], "human_preference": [1, 0]},
        {"prompt": None, "image_path": ["0.png", "0.png"], "human_preference": [1, 0]},
    ],
)
def test_entries_that_are_no_pairs(folder: Path, entry: object) -> None:
    with pytest.raises(BenchError, match=r"train\.json: row 0"):
        list(_hpd(entry)(folder).read())


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("t.csv", "", "the first line is empty"),
        ("t.csv", "prompt,chosen\n", "column 'rejected' is missing"),
        ("t.csv", "prompt,chosen,rejected,chosen\n", "'chosen' is there twice"),
        ("t.csv", "prompt;chosen;rejected\na;b;c\n", "column 'prompt' is missing"),
        ("t.csv", 'prompt,chosen,rejected\n"a,b,c\n', "line 2: .* ends with a quote"),
        ("t.csv", f"prompt,chosen,rejected\n{'x' * 200_000},b,c\n", "line 2: a cell has more"),
        ("t.csv", "prompt,image_0,image_1,label\na,0.png,0.png,nan\n", "row 0: label is 'nan'"),
        ("t.csv", "prompt,image_0,image_1,label\na,0.png,0.png,1e400\n", "row 0: label is"),
        ("t.csv", "prompt,image_0,image_1,label\na,0.png,0.png,yes\n", "row 0: label is 'yes'"),
        ("t.jsonl", "", "holds nothing"),
        ("t.jsonl", "[" * 100_000, "line 1: not valid JSON .nested too deeply"),
        ("t.jsonl", "5\n", "line 1 is of type int; expected texts alone or objects"),
        ("t.jsonl", '{"prompt": "\\ud800", "chosen": "a", "rejected": "b"}\n', "half of a char"),
        ("t.jsonl", '{"prompt": 3, "chosen": "0.png", "rejected": "0.png"}\n', "row 0: prompt is"),
        ("t.parquet", b"", "not a readable Parquet file"),
    ],
)
def test_pairs_that_cannot_be_read(
    folder: Path, name: str, content: str | bytes, said: str
) -> None:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(BenchError, match=said) as caught:
        list(PairsTable(path=str(path)).read())
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 1_000


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('[{"prompt": "\\ud800"}]', "entry 0: not valid JSON .holds half of a character"),
        ('[{"prompt": "a", "prompt": "b"}]', "entry 0: not valid JSON .the key 'prompt' is there"),
        ('{"prompt": "a"}', "expected a JSON list"),
        ("[1]", "entry 0 is of type int; expected texts alone or objects"),
        ("[", "line 1: not valid JSON"),
        ("", "line 1: not valid JSON"),
        ("[" + "9" * 5_000 + "]", "4300"),
    ],
)
def test_lists_of_pairs_that_cannot_be_read(folder: Path, text: str, said: str) -> None:
    (folder / "train.json").write_text(text)
    with pytest.raises(BenchError, match=said):
        list(HPD(path=str(folder / "train.json")).read())


@pytest.mark.parametrize(
    ("image", "said"),
    [
        ("/dev/zero", "image 0: /dev/zero is a device, not a file"),
        ("pipe.png", "image 0: pipe.png is a pipe, not a file"),
        ("a" * 5_000, "File name too long"),
        ("a\0b", "image 0: "),
        ("sub", "is a folder, not a file"),
        (b"", "image 0: "),
    ],
)
def test_the_python_interface_opens_files_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch, image: str | bytes, said: str
) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises(BenchError, match=said):
        bench.score([image], ["a"], ["gold"])
    with pytest.raises(BenchError, match=r"prompt 0 is .* half of a character"):
        bench.score([folder / "0.png"], ["\ud800"], ["gold"])


def test_names_of_files_need_not_be_utf_8(folder: Path) -> None:
    table = folder / os.fsdecode(b"t\xff.csv")
    table.write_text("prompt,chosen,rejected\na,0.png,0.png\n")
    pairs = PairsTable(path=str(table))
    assert len(pairs.fingerprint()) == 64
    assert pairs.count() == 1
    broken = folder / os.fsdecode(b"t\xff.parquet")
    broken.write_bytes(b"PAR1")
    with pytest.raises(BenchError, match="not a readable Parquet file"):
        PromptFile(path=str(broken)).load()


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "9" * 5_000, "\0", "", "["])
def test_our_own_files_may_be_broken_too(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(BenchError, match=r"x\.json"):
        read_json(tmp_path / "x.json")
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "x.json").write_text(text)
    with pytest.raises(BenchError, match=r"x\.json"):
        tables.build(tmp_path)
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "dataset_dict.json").write_text(text)
    with pytest.raises(BenchError, match=r"dataset_dict\.json"):
        PairsTable(path=str(tmp_path / "saved")).count()


@pytest.mark.parametrize(
    "number",
    ["1e309", "1E+309", "-1e0309", "1.5e400", 310 * "9" + ".0", 250 * "9" + "e99", "12e999999"],
)
@pytest.mark.parametrize("text", ["{}", "[1.5, {}]", '{{"a": {}}}', '{{"a": {} }}', "{}\n"])
def test_a_number_too_large_for_a_float_is_named_wherever_it_stands(number: str, text: str) -> None:
    assert json_value(text.format("1.5"), finite=True)
    with pytest.raises(ValueError, match="is no finite number"):
        json_value(text.format(number), finite=True)


def test_what_only_looks_like_a_large_number_is_read() -> None:
    text = '{"sha256": "81dc24d292e522e900", "text": "1e999, 1e999", "score": 1e-320, "n": 1e5}'
    assert json_value(text, finite=True)["text"] == "1e999, 1e999"
    assert json_value(f'["{400 * "9"}", 1e100]', finite=True)[1] == 1e100
