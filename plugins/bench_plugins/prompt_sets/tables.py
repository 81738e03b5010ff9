"""Prompts as they stand in the files that `bench.lib.tables` reads, character by character."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from bench import BenchError, Prompt
from bench.files import tables


def read_prompts(path: Path, prompt: str, groups: Mapping[str, str]) -> tuple[Prompt, ...]:
    """All rows of a file in its order, duplicates included.

    Args:
        path: the file; a list of bare texts has the one column "prompt".
        prompt: the column of the prompts.
        groups: group name -> its column. A row without a value is in no such group.

    Raises:
        BenchError: it cannot be read or is not of its format, a column is missing, a prompt empty,
            a cell of the wrong kind; names the line.
    """
    return prompts_of(tables.read(path), prompt, groups)


def prompts_of(
    table: tables.FileTable, prompt: str, groups: Mapping[str, str]
) -> tuple[Prompt, ...]:
    """As `read_prompts`, of a table that is open."""
    wanted = list(dict.fromkeys([prompt, *groups.values()]))
    tables.require(table, wanted)
    prompts = []
    for row in table.read(wanted):
        named = tables.groups_of(row, groups, table.source)
        prompts.append(Prompt(tables.text_of(row, prompt, table.source), named))
    if not prompts:
        raise BenchError(f"{table.source}: holds no prompt")
    return tuple(prompts)
