"""Preference sets in every form that they are read in, and what broken ones say."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bench_plugins.preference_sets import HPD, PairsTable, PickAPic

from bench import BenchError, PreferenceSet
from bench.api import contracts
from bench.lib import reading, tables
from bench.lib.images import decode
from bench.registry.registry import default_registry
from tests import toy
from tests.toy import jpeg, write_pairs

COUNT = 6


@pytest.fixture(scope="module")
def images() -> list[bytes]:
    rng = np.random.default_rng(3)
    return [jpeg(rng, 8) for _ in range(2 * COUNT)]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def files(tmp_path: Path, images: list[bytes]) -> list[str]:
    """Names of the same images as files in pictures/, two a pair."""
    (tmp_path / "pictures").mkdir()
    names = [f"pictures/{i}.jpg" for i in range(len(images))]
    for name, data in zip(names, images, strict=True):
        (tmp_path / name).write_bytes(data)
    return names


def _frame(images: Sequence[bytes]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "caption": [f"picture {i}" for i in range(COUNT)],
            "jpg_0": images[::2],
            "jpg_1": images[1::2],
            "label_0": [0.0, 1.0, 0.5, 1.0, 0.0, 0.5],
            "model_0": [f"model {i % 2}" for i in range(COUNT)],
            "model_1": ["model 0"] * COUNT,
        }
    )


def _write_csv(path: Path, rows: Sequence[Sequence[object]], delimiter: str = ",") -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=delimiter, lineterminator="\n").writerows(rows)
    return path


def _chosen_rows(files: Sequence[str]) -> list[list[str]]:
    rows = zip(files[::2], files[1::2], strict=True)
    return [["prompt", "chosen", "rejected"], *(["a, b", *two] for two in rows)]


def _rows_read(pairs: PreferenceSet, rows: Sequence[int] | None) -> list[int]:
    return [pair.row for pair in pairs.read(rows)]


# Every form of the same six pairs, with the options that it needs.
def _pickapic_file(folder: Path, images: Sequence[bytes], files: Sequence[str]) -> PreferenceSet:
    _frame(images).to_parquet(folder / "p.parquet", index=False)
    return PickAPic(path=str(folder / "p.parquet"))


def _pickapic_shards(folder: Path, images: Sequence[bytes], files: Sequence[str]) -> PreferenceSet:
    data = folder / "set" / "data"
    data.mkdir(parents=True)
    frame = _frame(images)
    for i, rows in enumerate((range(2), range(2, 2), range(2, COUNT))):
        part = frame.iloc[list(rows)]
        part.to_parquet(data / f"train-0000{i}-of-00003-abc{i}.parquet", index=False)
    frame.iloc[:1].to_parquet(data / "test-00000-of-00001.parquet", index=False)
    return PickAPic(path=str(folder / "set"), split="train")


def _pickapic_saved(folder: Path, images: Sequence[bytes], files: Sequence[str]) -> PreferenceSet:
    datasets = pytest.importorskip("datasets")
    whole = datasets.Dataset.from_pandas(_frame(images))
    both = datasets.DatasetDict({"train": whole, "test": whole.select([0])})
    both.save_to_disk(str(folder / "saved"))
    return PickAPic(path=str(folder / "saved"), split="train")


def _table_csv(folder: Path, images: Sequence[bytes], files: Sequence[str]) -> PreferenceSet:
    return PairsTable(path=str(_write_csv(folder / "p.csv", _chosen_rows(files))))


def _table_tsv(folder: Path, images: Sequence[bytes], files: Sequence[str]) -> PreferenceSet:
    rows = ["\t".join(row) for row in _chosen_rows(files)]
    # A lone quote is a letter in a .tsv; blank lines are no rows.
    rows[1] = rows[1].replace("a, b", '"a')
    (folder / "p.tsv").write_text("\n\n".join(rows) + "\n", encoding="utf-8-sig")
    return PairsTable(path=str(folder / "p.tsv"))


def _table_jsonl(folder: Path, images: Sequence[bytes], files: Sequence[str]) -> PreferenceSet:
    (folder / "elsewhere").mkdir()
    rows = [
        {"text": "a", "good": good, "bad": bad, "by": "x"}
        for good, bad in zip(files[::2], files[1::2], strict=True)
    ]
    path = folder / "elsewhere" / "p.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return PairsTable(
        path=str(path),
        images=str(folder),
        prompt="text",
        chosen="good",
        rejected="bad",
        model_0="by",
        model_1="by",
    )


def _table_parquet(folder: Path, images: Sequence[bytes], files: Sequence[str]) -> PreferenceSet:
    # Image structs as `datasets` writes them; one holds a path in place of bytes.
    cells = [{"bytes": data, "path": None} for data in images]
    cells[5] = {"bytes": None, "path": files[5]}
    frame = pd.DataFrame(
        {
            "prompt": ["a"] * COUNT,
            "image_0": cells[::2],
            "image_1": cells[1::2],
            "label": [0, 1, 0.5, 1, 0, 0.25],
        }
    )
    frame.to_parquet(folder / "p.parquet", index=False)
    return PairsTable(path=str(folder / "p.parquet"))


def _table_saved(folder: Path, images: Sequence[bytes], files: Sequence[str]) -> PreferenceSet:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {
            "prompt": datasets.Value("string"),
            "chosen": datasets.Image(),
            "rejected": datasets.Image(),
        }
    )
    columns = {
        "prompt": ["a"] * COUNT,
        "chosen": [{"bytes": data, "path": None} for data in images[::2]],
        # save_to_disk puts the files' bytes into the folder.
        "rejected": [str(folder / name) for name in files[1::2]],
    }
    whole = datasets.Dataset.from_dict(columns, features=features)
    whole.save_to_disk(str(folder / "saved"))
    for name in files:
        (folder / name).unlink()
    return PairsTable(path=str(folder / "saved"))


def _hpd_v2(folder: Path, images: Sequence[bytes], files: Sequence[str]) -> PreferenceSet:
    (folder / "pictures").rename(folder / "train")
    names = [name.removeprefix("pictures/") for name in files]
    rows = [
        {
            "prompt": f"p {i} {{[,",
            "image_path": [names[2 * i], names[2 * i + 1]],
            "human_preference": [[0, 1], [1, 0], [1, 1]][i % 3],
            "user_hash": "x",
        }
        for i in range(COUNT)
    ]
    (folder / "train.json").write_text(json.dumps(rows, indent=1))
    return HPD(path=str(folder / "train.json"))


def _hpd_v3(folder: Path, images: Sequence[bytes], files: Sequence[str]) -> PreferenceSet:
    rows = [
        {
            "prompt": "p",
            "choice_dist": [12, 7],
            "confidence": 0.99,
            "path1": files[2 * i],
            "path2": files[2 * i + 1],
            "model1": "sdxl",
            "model2": "kolors",
        }
        for i in range(COUNT)
    ]
    (folder / "all.json").write_text(json.dumps(rows))
    return HPD(path=str(folder / "all.json"))


Make = Callable[[Path, Sequence[bytes], Sequence[str]], PreferenceSet]
CHOSEN = [1.0] * COUNT
FORMS: dict[str, tuple[Make, list[float]]] = {
    "pickapic-file": (_pickapic_file, [0, 1, 0.5, 1, 0, 0.5]),
    "pickapic-shards": (_pickapic_shards, [0, 1, 0.5, 1, 0, 0.5]),
    "pickapic-saved": (_pickapic_saved, [0, 1, 0.5, 1, 0, 0.5]),
    "table-csv": (_table_csv, CHOSEN),
    "table-tsv": (_table_tsv, CHOSEN),
    "table-jsonl": (_table_jsonl, CHOSEN),
    "table-parquet": (_table_parquet, [0, 1, 0.5, 1, 0, 0.25]),
    "table-saved": (_table_saved, CHOSEN),
    "hpd-v2": (_hpd_v2, [0, 1, 0.5, 0, 1, 0.5]),
    "hpd-v3": (_hpd_v3, CHOSEN),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_its_pairs_in_order(
    form: str, tmp_path: Path, images: list[bytes], files: list[str]
) -> None:
    make, human = FORMS[form]
    pairs = make(tmp_path, images, files)
    read = list(pairs.read())
    assert pairs.count() == COUNT
    assert [pair.row for pair in read] == list(range(COUNT))
    assert [pair.images[0].data for pair in read] == images[::2]
    assert [pair.images[1].data for pair in read] == images[1::2]
    assert [pair.human for pair in read] == human
    assert {pair.problem for pair in read} == {""}
    assert _rows_read(pairs, [1, 4]) == [1, 4]
    assert [pair.images[0].data for pair in pairs.read([1, 4])] == [images[2], images[8]]
    assert _rows_read(pairs, []) == []
    assert str(tmp_path) in pairs.source
    with pytest.raises(BenchError, match=r"there is no row 6; it has 6 rows"):
        list(pairs.read([2, 6]))


@pytest.mark.parametrize("form", FORMS)
def test_the_fingerprint_is_of_content_not_of_place(
    form: str, tmp_path: Path, images: list[bytes], files: list[str]
) -> None:
    make, _ = FORMS[form]
    first = make(tmp_path, images, files).fingerprint()
    assert make_again(make, tmp_path / "moved", images).fingerprint() == first
    assert make_again(make, tmp_path / "other", images[::-1]).fingerprint() != first


def make_again(make: Make, folder: Path, images: Sequence[bytes]) -> PreferenceSet:
    (folder / "pictures").mkdir(parents=True)
    names = [f"pictures/{i}.jpg" for i in range(len(images))]
    for name, data in zip(names, images, strict=True):
        (folder / name).write_bytes(data)
    return make(folder, images, names)


@pytest.mark.parametrize("form", FORMS)
def test_a_bare_path_goes_to_exactly_one_plugin(
    form: str, tmp_path: Path, images: list[bytes], files: list[str]
) -> None:
    make, _ = FORMS[form]
    pairs = make(tmp_path, images, files)
    path = Path(pairs.path)  # type: ignore[attr-defined]
    readers = [
        entry.cls
        for entry in default_registry().entries("preference_sets")
        if issubclass(entry.cls, PreferenceSet) and entry.cls.reads(path)
    ]
    own_names = form != "table-jsonl"
    assert readers == [type(pairs)] or not own_names


@pytest.mark.parametrize("name", ["empty.parquet", "empty.csv", "x.json", "folder", "gone", "x.py"])
def test_asking_who_reads_never_fails(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "folder":
        path.mkdir()
        (path / "state.json").write_text("not json")
    elif name != "gone":
        path.write_bytes(b"\x00")
    readers = [cls for cls in (HPD, PairsTable, PickAPic) if cls.reads(path)]
    assert len(readers) <= 1


def test_models_are_read_where_they_are_known(
    tmp_path: Path, images: list[bytes], files: list[str]
) -> None:
    read = list(_pickapic_file(tmp_path, images, files).read([0, 1]))
    assert [toy.models(p) for p in read] == [("model 0",) * 2, ("model 1", "model 0")]
    (first,) = _hpd_v3(tmp_path, images, files).read([0])
    assert toy.models(first) == ("sdxl", "kolors")
    (first,) = _table_jsonl(tmp_path, images, files).read([0])
    assert toy.models(first) == ("x", "x")
    (first,) = PickAPic(path=str(write_pairs(tmp_path / "none.parquet", count=1))).read()
    assert toy.models(first) == ("", "")


@pytest.mark.parametrize("seed", [-1, 2**63, True, 0.5])
def test_what_is_no_seed_of_ours_is_none_known(
    tmp_path: Path, images: list[bytes], seed: object
) -> None:
    """Other programs' columns of that name hold -1 for a random one, or 64 bits."""
    file = tmp_path / "p.parquet"
    _frame(images).assign(seed_0=seed, seed_1=7).to_parquet(file, index=False)
    pairs = contracts.read_pairs(PickAPic(path=str(file)))
    assert {tuple(image.seed for image in pair.images) for pair in pairs} == {(None, 7)}


def test_only_row_groups_with_wanted_rows_are_read_and_each_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_pairs(tmp_path / "p.parquet", count=100)
    pq.write_table(pq.read_table(path), path, row_group_size=10)
    seen: list[int] = []
    original = pq.ParquetFile.iter_batches

    def noting(self: Any, *args: Any, row_groups: list[int], **options: Any) -> Iterator[Any]:
        seen.extend(row_groups)
        return original(self, *args, row_groups=row_groups, **options)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", noting)
    rows = [3, 4, 9, 10, 55, 99]
    assert _rows_read(PickAPic(path=str(path)), rows) == rows
    assert seen == [0, 1, 5, 9]


def test_batches_need_not_end_where_rows_do(tmp_path: Path) -> None:
    path = write_pairs(tmp_path / "p.parquet", count=3 * tables.BATCH + 5)
    frame = pd.read_parquet(path)
    rows = [0, tables.BATCH - 1, tables.BATCH, 2 * tables.BATCH + 1, len(frame) - 1]
    read = list(PickAPic(path=str(path)).read(rows))
    assert [pair.images[1].data for pair in read] == [frame["jpg_1"][row] for row in rows]


def test_splits_are_never_mixed(tmp_path: Path, images: list[bytes], files: list[str]) -> None:
    _pickapic_shards(tmp_path, images, files)
    folder = str(tmp_path / "set")
    assert PickAPic(path=folder, split="test").count() == 1
    assert PickAPic(path=folder).count() == COUNT
    with pytest.raises(BenchError, match=r"there is no split 'tran'; there is test, train"):
        PickAPic(path=folder, split="tran").count()
    with pytest.raises(BenchError, match=r"a single file has no splits"):
        PickAPic(path=str(next(Path(folder).rglob("test-*"))), split="test").count()
    for file in Path(folder).rglob("train-*"):
        file.rename(file.with_name(file.name.replace("train", "validation")))
    with pytest.raises(
        BenchError, match=r"several splits; choose .*split=\.\.\.: test, validation"
    ):
        PickAPic(path=folder).count()


def test_files_say_which_scorers_made_their_labels(tmp_path: Path) -> None:
    path = write_pairs(tmp_path / "p.parquet", count=3)
    assert PickAPic(path=str(path)).labelled_by() == ()
    table = pq.read_table(path)
    for note, expected in (
        ('{"scorers": ["pickscore", "hpsv2.1"]}', ("pickscore", "hpsv2.1")),
        ("someone else's", ()),
        ("[1]", ()),
    ):
        pq.write_table(table.replace_schema_metadata({"provenance": note}), path)
        assert PickAPic(path=str(path)).labelled_by() == expected


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("label_0", 1.5, "row 2: label_0 is 1.5, expected 0 to 1"),
        ("label_0", np.nan, "row 2: label_0 is null"),
        ("caption", None, "row 2: caption is null"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, column: str, value: object, message: str) -> None:
    path = write_pairs(tmp_path / "p.parquet", count=4)
    frame = pd.read_parquet(path)
    frame[column] = [value if i == 2 else v for i, v in enumerate(frame[column])]
    frame.to_parquet(path)
    with pytest.raises(BenchError, match=message) as caught:
        list(PickAPic(path=str(path)).read())
    assert str(path) in str(caught.value)


def test_an_image_that_is_not_there_is_the_pairs_problem(
    tmp_path: Path, images: list[bytes], files: list[str]
) -> None:
    frame = _frame(images)
    frame["jpg_0"] = [None if i == 2 else data for i, data in enumerate(frame["jpg_0"])]
    frame.to_parquet(tmp_path / "null.parquet")
    problems = [pair.problem for pair in PickAPic(path=str(tmp_path / "null.parquet")).read()]
    assert problems == ["", "", "jpg_0: there is no image", "", "", ""]
    (tmp_path / files[3]).unlink()
    broken = list(_table_csv(tmp_path, images, files).read())
    gone = f"rejected: there is no file {tmp_path / files[3]}"
    assert [pair.problem for pair in broken] == ["", gone, "", "", "", ""]
    assert decode(broken[1].images[0].data).size == (8, 8)
    (_, pair, *_) = _hpd_v3(tmp_path, images, files).read()
    assert pair.problem == gone.replace("rejected", "path2")


def test_missing_columns_and_files_are_named(tmp_path: Path) -> None:
    path, empty = tmp_path / "p.parquet", tmp_path / "empty"
    empty.mkdir()
    pd.DataFrame({"caption": ["a"], "jpg_0": [b""]}).to_parquet(path, index=False)
    missing = r"column 'jpg_1' is missing \(did you mean 'jpg_0'\?\); it has caption, jpg_0"
    for ask in (lambda p: p.count(), lambda p: list(p.read())):
        with pytest.raises(BenchError, match=missing):
            ask(PickAPic(path=str(path)))
    with pytest.raises(BenchError, match="there is no file or folder"):
        PickAPic(path=str(tmp_path / "gone.parquet")).fingerprint()
    with pytest.raises(BenchError, match=r"holds no \.parquet file"):
        PickAPic(path=str(empty)).count()
    path.write_text("not parquet")
    with pytest.raises(BenchError, match="not a readable Parquet file"):
        PickAPic(path=str(path)).count()
    with pytest.raises(BenchError, match=r"expected a \.parquet"):
        PickAPic(path=__file__).count()


def test_a_shard_of_another_schema_is_named(tmp_path: Path) -> None:
    write_pairs(tmp_path / "a.parquet", count=3)
    pd.DataFrame({"caption": ["a"]}).to_parquet(tmp_path / "b.parquet", index=False)
    with pytest.raises(BenchError, match=r"b\.parquet: column 'jpg_0' is missing in this shard"):
        list(PickAPic(path=str(tmp_path)).read())


def test_an_explicit_mapping_wins_over_the_usual_names(
    tmp_path: Path, images: list[bytes], files: list[str]
) -> None:
    rows = [["prompt", "chosen", "rejected", "image_0", "label", "p"]]
    rows += [["a", *files[:2], files[2], "0.25", "other"]]
    path = str(_write_csv(tmp_path / "p.csv", rows))
    (usual,) = PairsTable(path=path).read()
    assert (usual.caption, usual.images[0].data, usual.human) == ("a", images[0], 1)
    mapped = PairsTable(path=path, prompt="p", image_1="rejected", label="label")
    (pair,) = mapped.read()
    assert (pair.caption, *toy.encoded(pair)) == ("other", images[2], images[1])
    assert pair.human == 0.25


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chosen": "a", "label": "b"}, "give either chosen and rejected, or image_0"),
        ({"prompt": "promt"}, r"column 'promt' is missing \(did you mean 'prompt'\?\); it has"),
        ({"label": "l"}, r"column 'image_0' is missing.*name yours with prompt="),
        ({"images": "nowhere"}, None),
    ],
)
def test_a_wrong_mapping_is_one_sentence(
    tmp_path: Path,
    images: list[bytes],
    files: list[str],
    options: dict[str, str],
    message: str | None,
) -> None:
    path = str(_write_csv(tmp_path / "p.csv", _chosen_rows(files)))
    pairs = PairsTable(path=path, **options)
    if message is None:
        assert all("there is no file nowhere/" in pair.problem for pair in pairs.read())
        return
    with pytest.raises(BenchError, match=message):
        pairs.count()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "", "the first line is empty"),
        ("a.csv", "prompt,chosen,rejected\na,b\n", "line 2 has 2 of 3 columns"),
        ("a.csv", "prompt,chosen,chosen\n", "the column 'chosen' is there twice"),
        (
            "a.csv",
            'prompt,chosen,rejected\n"a,b,c\n',
            "line 2: unexpected end of data",
        ),
        ("a.jsonl", "", "holds nothing"),
        ("a.jsonl", "[1]\n", "line 1 is of type list; expected texts alone or objects"),
        ("a.jsonl", '{"prompt": "a", "chosen": "b", "rejected": "c"}\n{', "line 2: not valid JSON"),
        ("a.jsonl", '{"chosen": 1, "rejected": 1, "prompt": 1}', "row 0: prompt is of type int"),
        ("a.json", "{}", "expected a JSON list"),
        ("a.json", '[{"prompt": "a", "path1": "b"}]', "column 'path2' is missing"),
        (
            "a.json",
            '[{"prompt":"a","path1":"b","path2":"c"}',
            "line 1: not valid JSON .Expecting ',' del",
        ),
        ("a.json", '[{"prompt":"a","rank":[1],"image_path":["b"]}]', "ranks many images a prompt"),
        (
            "a.json",
            '[{"prompt":"a","file_path":["b"],"human_preference":[1,0]}]',
            "row 0: expected two images and a number for each in file_path",
        ),
        ("a.csv", b"prompt,chosen,rejected\n\xff,b,c\n", "line 2: not UTF-8 .byte 0xff"),
    ],
)
def test_broken_files_are_one_sentence(
    tmp_path: Path, name: str, text: str | bytes, message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    plugin = HPD if name.endswith(".json") else PairsTable
    with pytest.raises(BenchError, match=message) as caught:
        list(plugin(path=str(path)).read())
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_json_list_is_read_in_blocks(
    tmp_path: Path, images: list[bytes], files: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = _hpd_v2(tmp_path, images, files)
    whole = list(pairs.read())
    for block in (1, 7, 200):
        monkeypatch.setattr(reading, "BLOCK", block)
        assert list(HPD(path=pairs.path).read()) == whole  # type: ignore[attr-defined]


def test_hpdv2s_older_name_of_the_image_column(
    tmp_path: Path, images: list[bytes], files: list[str]
) -> None:
    pairs = _hpd_v2(tmp_path, images, files)
    path = tmp_path / "train.json"
    path.write_text(path.read_text().replace("image_path", "file_path"))
    assert list(HPD(path=str(path)).read()) == list(pairs.read())


def test_images_of_another_size_change_the_fingerprint(
    tmp_path: Path, images: list[bytes], files: list[str]
) -> None:
    pairs = _table_csv(tmp_path, images, files)
    before = pairs.fingerprint()
    (tmp_path / files[7]).write_bytes(images[7] + b"\0")
    assert pairs.fingerprint() != before
    (tmp_path / files[7]).unlink()
    assert pairs.fingerprint() != before


def test_without_datasets_the_hub_prints_the_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(BenchError, match=r"pip install 'diffusion-preference-bench\[data\]'"):
        PickAPic(path="owner/name").count()


def test_a_damaged_datasets_folder_is_one_sentence(
    tmp_path: Path, images: list[bytes], files: list[str]
) -> None:
    pairs = _table_saved(tmp_path, images, files)
    (tmp_path / "saved" / "state.json").write_text("{}")
    for ask in (pairs.count, pairs.fingerprint):
        with pytest.raises(BenchError, match="saved"):
            ask()


def test_images_are_decoded_by_nobody_here(tmp_path: Path) -> None:
    table = pa.table({"prompt": ["a"], "chosen": [b"x"], "rejected": [b"y"]})
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    (tmp_path / "p.parquet").write_bytes(buffer.getvalue())
    (pair,) = PairsTable(path=str(tmp_path / "p.parquet")).read()
    assert (*toy.encoded(pair), pair.problem) == (b"x", b"y", "")
