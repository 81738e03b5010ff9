"""Prompt sets in their official file formats."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from bench import BenchError, Prompt, PromptSet, hookimpl, option


@dataclass(frozen=True, kw_only=True)
class PartiPrompts(PromptSet):
    """A TSV file in PartiPrompts' format: Prompt, Category, Challenge, Note.

    Quoting is off, as in the official file: one prompt begins with a quote character.
    Groups: category, challenge. Source: google-research/parti, 1,632 prompts.
    """

    name: ClassVar[str] = "parti"
    path: str = option(doc="the .tsv file", in_key=False)

    @classmethod
    def reads(cls, path: Path) -> bool:
        """TSV files."""
        return path.suffix == ".tsv"

    def load(self) -> tuple[Prompt, ...]:
        """All rows in file order."""
        lines = _text(Path(self.path)).splitlines()
        rows = list(csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
        if not rows:
            raise BenchError(f"{self.path}: the file is empty; expected a header and prompts")
        header = rows[0]
        missing = [c for c in ("Prompt", "Category", "Challenge") if c not in header]
        if missing:
            raise BenchError(
                f"{self.path}: column {missing[0]!r} is missing; the header is "
                f"{', '.join(header)!r}, expected Prompt, Category, Challenge, Note "
                f"separated by tabs"
            )
        prompts = []
        for number, row in enumerate(rows[1:], start=2):
            if len(row) < len(header):
                raise BenchError(
                    f"{self.path}: line {number} has {len(row)} of {len(header)} columns"
                )
            cells = dict(zip(header, row, strict=False))
            _require_text(cells["Prompt"], f"{self.path}: line {number}")
            groups = {"category": cells["Category"], "challenge": cells["Challenge"]}
            prompts.append(Prompt(cells["Prompt"], groups))
        return _not_empty(prompts, self.path)


@dataclass(frozen=True, kw_only=True)
class HPDv2(PromptSet):
    """A folder of JSON lists of prompts, one a style, as the HPDv2 benchmark has.

    The file's name is the style. Group: style. Source: `benchmark/` of the HPDv2 data set,
    anime, concept-art, paintings and photo with 800 prompts each. A single .json works too.
    """

    name: ClassVar[str] = "hpdv2"
    path: str = option(doc="the folder of .json files, or one of them", in_key=False)

    @classmethod
    def reads(cls, path: Path) -> bool:
        """JSON files, and folders that hold some."""
        return path.suffix == ".json" or (path.is_dir() and any(path.glob("*.json")))

    def load(self) -> tuple[Prompt, ...]:
        """All prompts, files by name, each in its order."""
        path = Path(self.path)
        files = sorted(path.glob("*.json")) if path.is_dir() else [path]
        if not files:
            raise BenchError(f"{self.path}: the folder holds no .json file")
        prompts = []
        for file in files:
            try:
                texts = json.loads(_text(file))
            except ValueError as error:
                raise BenchError(f"{file}: not valid JSON: {error}") from error
            if not isinstance(texts, list) or not all(isinstance(t, str) for t in texts):
                raise BenchError(f"{file}: expected a JSON list of prompt strings")
            for i, text in enumerate(texts):
                _require_text(text, f"{file}: entry {i}")
                prompts.append(Prompt(text, {"style": file.stem}))
        return _not_empty(prompts, self.path)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BenchError(f"{path}: cannot be read as UTF-8 text ({error})") from error


def _require_text(text: str, where: str) -> None:
    if not text.strip():
        raise BenchError(f"{where}: the prompt is empty; fill it in or remove the row")


def _not_empty(prompts: Sequence[Prompt], path: str) -> tuple[Prompt, ...]:
    if not prompts:
        raise BenchError(f"{path}: holds no prompt")
    return tuple(prompts)


@hookimpl
def bench_prompt_sets() -> Sequence[type[PromptSet]]:
    """The formats above."""
    return (PartiPrompts, HPDv2)
