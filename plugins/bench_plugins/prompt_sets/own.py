"""Prompts of your own, in whatever common format they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from bench import BenchError, Prompt, PromptSet, option
from bench.files import expanded, listed, tables
from bench_plugins.prompt_sets.benchmarks import BENCHMARKS
from bench_plugins.prompt_sets.tables import prompts_of

_PROMPT_COLUMNS = ("prompt", "Prompt", "caption", "text")
_GROUP_COLUMNS = ("category", "style", "challenge")


@dataclass(frozen=True, kw_only=True)
class PromptFile(PromptSet):
    """Your own file: .txt (a prompt a line), .csv, .tsv, .json, .jsonl or .parquet.

    A .json holds a list of texts or of objects, a .jsonl one of either a line. Text is UTF-8.
    A .csv quotes fields with commas or line breaks; a .tsv knows no quoting. Groups are columns
    that you name, or category, style and challenge (any case) where the file has them; no other
    column is guessed. A row without a value is in no such group. Duplicates stay rows.
    """

    name: ClassVar[str] = "file"
    path: str = option(doc="the file", affects_results=False)
    prompt: str | None = option(
        None, f"column of the prompts; none: the first of {', '.join(_PROMPT_COLUMNS)}"
    )
    groups: tuple[str, ...] = option(
        (), f"columns to break results down by; default: {', '.join(_GROUP_COLUMNS)}"
    )

    @classmethod
    def reads(cls, path: Path) -> bool:
        """Files of these formats that are not of a benchmark's form."""
        known = path.suffix.lower() in tables.SUFFIXES and path.is_file()
        return known and not any(benchmark.reads(path) for benchmark in BENCHMARKS)

    def load(self) -> tuple[Prompt, ...]:
        """All rows in file order."""
        table = tables.read(expanded(self.path))
        column = self._prompt_column(table.columns)
        return prompts_of(table, column, self._groups(table.columns))

    def _prompt_column(self, present: Sequence[str]) -> str:
        if self.prompt is not None:
            return self.prompt
        column = next((name for name in _PROMPT_COLUMNS if name in present), None)
        if column is None:
            raise BenchError(
                f"{self.path}: no column is called {', '.join(_PROMPT_COLUMNS)}; name the one "
                f"that holds the prompts: {self.name}[path={self.path},prompt=...]; it has "
                f"{listed(present, 12)}"
            )
        return column

    def _groups(self, present: Sequence[str]) -> Mapping[str, str]:
        if self.groups:
            return {name: name for name in self.groups}
        return {name.lower(): name for name in present if name.lower() in _GROUP_COLUMNS}
