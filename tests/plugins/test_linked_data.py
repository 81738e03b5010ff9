"""Folders of pairs and of prompts: links are followed, endings have any case, hidden is hidden."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from bench_plugins.preference_sets.records import fingerprint, open_table
from bench_plugins.prompt_sets import HPDv2

from bench import BenchError


def test_shards_in_linked_folders_are_pairs_like_others(tmp_path: Path) -> None:
    plain = tmp_path / "plain" / "data"
    plain.mkdir(parents=True)
    pd.DataFrame({"caption": [*"abcd"]}).to_parquet(plain / "a.parquet")
    pd.DataFrame({"caption": [*"efg"]}).to_parquet(plain / "b.PARQUET")
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "data").symlink_to(plain)
    (linked / "data" / "._a.parquet").write_bytes(b"of an archiver")
    one, other = open_table(str(tmp_path / "plain")), open_table(str(linked))
    assert one.count() == other.count() == 7
    assert fingerprint(one) == fingerprint(other)
    (linked / "gone").symlink_to(tmp_path / "nowhere")
    with pytest.raises(BenchError, match="gone: this link leads nowhere"):
        open_table(str(linked))


def test_a_list_of_prompts_is_never_left_out_silently(tmp_path: Path) -> None:
    (tmp_path / "anime.json").write_text(json.dumps(["a"]))
    (tmp_path / "photo.JSON").write_text(json.dumps(["b"]))
    (tmp_path / "._anime.json").write_bytes(b"of an archiver")
    assert [p.text for p in HPDv2(path=str(tmp_path)).load()] == ["a", "b"]
    (tmp_path / "paintings.json").symlink_to(tmp_path / "nowhere.json")
    with pytest.raises(BenchError, match=r"paintings\.json: this link leads nowhere"):
        HPDv2(path=str(tmp_path)).load()
