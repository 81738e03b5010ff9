"""Files of prompts that are none."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pandas as pd
import pytest

from tests.hostile.harness import RUN, Case, Content, Prepare, World, judge, sample


def bad(name: str, file: str, content: Content, *says: str) -> Case:
    """A file of prompts that must be refused, by its name."""
    command = f"{RUN} --prompts ./{file}"
    return Case(id=name, command=command, files={file: content}, ends="refused", says=(file, *says))


def fine(name: str, file: str, content: Content) -> Case:
    """Odd, but a file of prompts."""
    return Case(
        id=name, command=f"{RUN} --dry-run --prompts ./{file}", files={file: content}, ends="well"
    )


def parquet(**columns: object) -> bytes:
    buffer = io.BytesIO()
    pd.DataFrame(columns).to_parquet(buffer)
    return buffer.getvalue()


def pipe(path: Path) -> None:
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.mkdir()


def link(target: str) -> Prepare:
    return lambda path: path.symlink_to(target)


LONG = "word " * 40_000

CASES = [
    bad("txt-empty", "p.txt", ""),
    bad("txt-blank-lines", "p.txt", "\n\n  \n"),
    bad("txt-blank-between", "p.txt", "a cat\n\na dog\n"),
    bad("txt-not-utf8", "p.txt", b"caf\xe9\n"),
    bad("txt-utf16", "p.txt", "a cat\n".encode("utf-16")),
    bad("txt-binary", "p.txt", bytes(range(256))),
    bad("txt-a-png", "p.txt", b"\x89PNG\r\n\x1a\n" + bytes(100)),
    bad("txt-surrogate", "p.txt", "a \ud800 cat\n"),
    bad("txt-a-pipe", "p.txt", pipe),
    bad("txt-a-folder", "p.txt", folder),
    bad("txt-a-dead-link", "p.txt", link("gone")),
    bad("txt-a-looping-link", "p.txt", link("p.txt")),
    bad("txt-a-device", "p.txt", link("/dev/null")),
    bad("csv-empty", "p.csv", ""),
    bad("csv-header-only", "p.csv", "prompt,style\n"),
    bad("csv-no-column", "p.csv", "a,b\n1,2\n", "prompt"),
    bad("csv-column-twice", "p.csv", "prompt,prompt\na,b\n", "prompt"),
    bad("csv-too-many-fields", "p.csv", "prompt,style\na,b,c\n"),
    bad("csv-too-few-fields", "p.csv", "prompt,style,mood\na\n"),
    bad("csv-open-quote", "p.csv", 'prompt\n"a cat\n'),
    bad("csv-empty-prompt", "p.csv", "prompt,style\n,ink\n"),
    bad("csv-not-utf8", "p.csv", b"prompt\ncaf\xe9\n"),
    bad("csv-long-field", "p.csv", f"prompt\n{LONG}\n"),
    bad("tsv-empty", "p.tsv", ""),
    bad("tsv-parti-header-only", "p.tsv", "Prompt\tCategory\tChallenge\tNote\n"),
    bad("tsv-parti-short-row", "p.tsv", "Prompt\tCategory\tChallenge\tNote\na cat\n"),
    bad("tsv-parti-empty-prompt", "p.tsv", "Prompt\tCategory\tChallenge\tNote\n\tA\tB\t\n"),
    bad("json-empty", "p.json", ""),
    bad("json-nothing", "p.json", "null"),
    bad("json-a-number", "p.json", "3"),
    bad("json-empty-list", "p.json", "[]"),
    bad("json-an-object", "p.json", "{}"),
    bad("json-numbers", "p.json", "[1, 2]"),
    bad("json-nested", "p.json", '[["a"]]'),
    bad("json-mixed", "p.json", '["a", {"prompt": "b"}]'),
    bad("json-cut", "p.json", '["a cat", "a d'),
    bad("json-two-values", "p.json", '["a"]["b"]'),
    bad("json-deep", "p.json", "[" * 100_000 + "]" * 100_000),
    bad("json-deep-objects", "p.json", '{"a":' * 50_000 + "1" + "}" * 50_000),
    bad("json-surrogate", "p.json", r'["a \ud800 cat"]'),
    bad("json-nan", "p.json", "[NaN]"),
    bad("json-huge-number", "p.json", f"[{'9' * 5000}]"),
    bad("json-empty-text", "p.json", '[""]'),
    bad("json-not-utf8", "p.json", b'["caf\xe9"]'),
    bad("json-objects-without-prompt", "p.json", '[{"text_": "a"}]'),
    bad("json-prompt-a-number", "p.json", '[{"prompt": 3}]'),
    bad("json-prompt-null", "p.json", '[{"prompt": null}]'),
    bad("jsonl-empty", "p.jsonl", ""),
    bad("jsonl-cut", "p.jsonl", '{"prompt": "a"}\n{"prompt": "b'),
    bad("jsonl-list-lines", "p.jsonl", "[1]\n"),
    bad("jsonl-deep", "p.jsonl", "[" * 100_000),
    bad("jsonl-tag-without-prompt", "p.jsonl", '{"tag": "x"}\n'),
    bad("parquet-empty", "p.parquet", b""),
    bad("parquet-junk", "p.parquet", b"PAR1 junk PAR1"),
    bad("parquet-cut", "p.parquet", parquet(prompt=["a cat", "a dog"])[:200]),
    bad("parquet-no-column", "p.parquet", parquet(x=[1])),
    bad("parquet-no-rows", "p.parquet", parquet(prompt=pd.Series([], dtype=str))),
    bad("parquet-null", "p.parquet", parquet(prompt=["a", None])),
    bad("parquet-numbers", "p.parquet", parquet(prompt=[1, 2])),
    bad("parquet-bytes", "p.parquet", parquet(prompt=[b"\xff\xfe", b"a"])),
    bad("unknown-suffix", "p.docx", "a cat\n"),
    bad("no-suffix", "prompts_", "a cat\n"),
    fine("txt-control-characters", "p.txt", "a \x1b[31mred\x1b[0m cat\n"),
    fine("txt-markup", "p.txt", "[bold]a cat[/bold]\n[/]\n"),
    fine("txt-repeated", "p.txt", "a cat\na cat\na cat\n"),
    fine("txt-windows", "p.txt", b"\xef\xbb\xbfa cat\r\na dog\r\n"),
    fine("txt-old-mac", "p.txt", b"a cat\ra dog\r"),
    fine("txt-very-long", "p.txt", LONG[:20_000] + "\n"),
    fine("txt-emoji", "p.txt", "\U0001f98a\u200d\U0001f525\n"),
    fine("csv-formula", "p.csv", "prompt,style\n\"=cmd|'/c calc'!A1\",+1\n"),
    Case(id="txt-nul", command=f"{RUN} --prompts ./p.txt", files={"p.txt": b"a\x00b\n"}),
    Case(id="csv-nul", command=f"{RUN} --prompts ./p.csv", files={"p.csv": b"prompt\na\x00b\n"}),
    Case(id="gone", command=f"{RUN} --prompts ./gone.txt", ends="refused", says=("gone.txt",)),
    Case(id="nothing", command=f"{RUN} --prompts ''", ends="refused"),
    Case(id="a-word", command=f"{RUN} --prompts partu", ends="refused", says=("parti",)),
    Case(id="twice-named", command=f"{RUN} --dry-run --prompts ./prompts.tsv,./prompts.tsv"),
    Case(
        id="two-of-one-name",
        command=f"{RUN} --dry-run --prompts ./prompts.tsv,./other/prompts.tsv",
        files={"other/prompts.tsv": "Prompt\tCategory\tChallenge\tNote\na cat\tA\tB\t\n"},
    ),
    Case(
        id="unknown-group",
        command=f"{RUN} --dry-run --prompts 'file[path=./p.csv,groups=mod]'",
        files={"p.csv": "prompt,mood\na cat,calm\n"},
        ends="refused",
        says=("mood",),
    ),
]


@pytest.mark.parametrize("case", sample(CASES, every=4))
def test_prompts(case: Case, world: World, tmp_path: Path) -> None:
    judge(case, world, tmp_path)
