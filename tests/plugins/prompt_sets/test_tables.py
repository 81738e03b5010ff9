from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bench_plugins.prompt_sets.tables import read_prompts

from bench import BenchError, Prompt
from bench.lib import tables

TEXTS = (' an "orange" cat', "two\u2028lines\x85 and \x0bmore ", "été", "été")
"""With what must survive: quotes, spaces at the ends, separators that are no line ends."""


def write(path: Path) -> Path:
    """`TEXTS` in the format of the path's suffix."""
    match path.suffix:
        case ".txt":
            text = "\n".join(TEXTS)
        case ".csv":
            quoted = [f'"{text.replace(chr(34), chr(34) * 2)}"' for text in TEXTS]
            text = "\n".join(["prompt", *quoted]) + "\n"
        case ".tsv":
            text = "\n".join(["prompt", *TEXTS]) + "\n"
        case ".json":
            text = json.dumps(TEXTS)
        case ".jsonl":
            text = "".join(json.dumps({"prompt": t}, ensure_ascii=False) + "\n" for t in TEXTS)
        case ".parquet":
            pd.DataFrame({"prompt": TEXTS}).to_parquet(path)
            return path
    path.write_bytes(text.encode())
    return path


def load(path: Path, groups: Mapping[str, str] | None = None) -> tuple[Prompt, ...]:
    return read_prompts(path, "prompt", groups or {})


@pytest.mark.parametrize("suffix", sorted(tables.SUFFIXES))
def test_every_format_gives_the_same_prompts_in_order(tmp_path: Path, suffix: str) -> None:
    prompts = load(write(tmp_path / f"p{suffix}"))
    assert tuple(p.text for p in prompts) == TEXTS


@pytest.mark.parametrize("suffix", sorted(tables.SUFFIXES - {".parquet"}))
def test_windows_files_are_read_alike(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"p{suffix}")
    plain = load(path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert load(path) == plain


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_quoted_field_may_hold_commas_and_line_breaks(tmp_path: Path, end: str) -> None:
    path = tmp_path / "p.csv"
    lines = ["prompt,style", '"one, two', 'three ""four""",ink', "five", ""]
    path.write_bytes(end.join(lines[:3]).encode())
    assert load(path, {"style": "style"}) == (Prompt('one, two\nthree "four"', {"style": "ink"}),)
    path.write_bytes(end.join(lines).encode())
    with pytest.raises(BenchError, match="line 4 has 1 of 2 columns"):
        load(path)


def test_a_row_without_a_value_is_in_no_group(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    frame = {"prompt": ["a", "b", "c"], "style": ["ink", None, " "], "level": [1.5, None, 2]}
    pd.DataFrame(frame).to_parquet(path)
    groups = [dict(p.groups) for p in load(path, {"style": "style", "level": "level"})]
    assert groups == [{"style": "ink", "level": "1.5"}, {}, {"level": "2"}]


def test_images_of_a_parquet_file_are_never_read(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    table = pa.table({"jpg_0": [b"x" * 999, b"y" * 999], "prompt": ["a", "b"]})
    pq.write_table(table, path)
    images = pq.read_metadata(path).row_group(0).column(0)
    data = bytearray(path.read_bytes())
    start = images.dictionary_page_offset
    data[start : start + images.total_compressed_size] = b"\xff" * images.total_compressed_size
    path.write_bytes(data)
    with pytest.raises(BenchError, match="not a readable Parquet file"):
        read_prompts(path, "jpg_0", {})
    assert [p.text for p in load(path)] == ["a", "b"]


BAD: tuple[tuple[str, bytes, str], ...] = (
    ("p.txt", b"", "holds no prompt"),
    ("p.txt", b"a\n \nb\n", "line 2: 'prompt' is empty; fill it in or remove the row"),
    ("p.txt", b"a\ncaf\xe9\n", r"line 2: not UTF-8 \(byte 0xe9\); save the file as UTF-8"),
    ("p.txt", "a\n".encode("utf-16"), "line 1: not UTF-8"),
    ("p.txt", b"\xef\xbb\xbfa\nb\xff", r"line 2: not UTF-8 \(byte 0xff\)"),
    ("p.csv", b"", "the first line is empty"),
    ("p.csv", b"prompt\n", "holds no prompt"),
    (
        "p.csv",
        b"promt,n\na,1\n",
        r"missing \(did you mean 'promt'\?\); it has promt, n",
    ),
    ("p.csv", b"a;b\nx;y\n", "column 'prompt' is missing; it has a;b"),
    ("p.csv", b"prompt,n,prompt\na,1,b\n", "the column 'prompt' is there twice"),
    ("p.csv", b"prompt,n\na, b,1\n", "line 2 has 3 of 2 columns; a text that holds a comma"),
    ("p.csv", b"prompt,n\na\n", "line 2 has 1 of 2 columns$"),
    ("p.csv", b"prompt,n\na,1\n\nb,2\n", "line 3 is empty; remove it"),
    ("p.csv", b'prompt,n\na,1\n"b,2\n', "line 3: unexpected end of data; a quoted field ends"),
    ("p.csv", b'prompt,n\n"a" b,1\n', "line 2: ',' expected after '\"'; a quoted field ends"),
    ("p.csv", b"prompt,n\n ,1\n", "line 2: 'prompt' is empty"),
    ("p.tsv", b"prompt\tn\na\t1\t2\n", "line 2 has 3 of 2 columns$"),
    ("p.json", b"[", "line 1: not valid JSON"),
    ("p.json", b'["a",\n"b"\n"c"]', "line 3: not valid JSON"),
    ("p.json", b"{}", "expected a JSON list"),
    ("p.json", b"[]", "holds nothing"),
    ("p.json", b"[1]", "entry 0 is of type int; expected texts alone or objects alone"),
    ("p.json", b'[{"prompt": "a"}, "b"]', "entry 1 is of type str; expected texts alone"),
    ("p.json", b'["a", ""]', "entry 1: 'prompt' is empty"),
    ("p.json", b'[{"prompt": "a"}, {"n": 1}]', "entry 1: 'prompt' is empty"),
    ("p.json", b'[{"prompt": ["a"]}]', "entry 0: 'prompt' holds list, no text"),
    ("p.jsonl", b'"a"\n\n{"b"}\n', "line 3: not valid JSON"),
    ("p.parquet", b"PAR1", "not a readable Parquet file"),
    ("p.md", b"a\n", "not of a known format: .csv, .json, .jsonl, .parquet, .tsv, .txt"),
)


@pytest.mark.parametrize(("name", "data", "message"), BAD)
def test_bad_files_give_one_sentence(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(BenchError, match=message) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_bad_row_of_a_parquet_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    pd.DataFrame({"prompt": ["a", None], "n": [1, 2], "tags": [["x"], ["y"]]}).to_parquet(path)
    with pytest.raises(BenchError, match="row 1: 'prompt' is empty"):
        load(path)
    with pytest.raises(BenchError, match="row 0: 'n' holds int, no text"):
        read_prompts(path, "n", {})
    with pytest.raises(BenchError, match=r"row 0: 'tags' holds list; a group is a text or"):
        load(path, {"tags": "tags"})


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for suffix in sorted(tables.SUFFIXES):
        with pytest.raises(BenchError, match="No such file"):
            tables.read(tmp_path / f"gone{suffix}")
