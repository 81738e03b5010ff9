"""Which images there are to score, and which prompt each shows."""

from __future__ import annotations

import errno
import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bench_plugins.prompt_sets import PromptFile
from PIL import Image

from bench.api.kinds import Prompt
from bench.lib.errors import BenchError
from bench.scoring.image_set import ImageSet
from bench.scoring.sources import open_images

PROMPTS = [Prompt(f"prompt {i}", {"category": "AB"[i % 2]}) for i in range(3)]


def encoded(red: int, form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (2, 3), (red, 0, 0)).save(buffer, form)
    return buffer.getvalue()


def write(folder: Path, *names: str) -> Path:
    """An image a name; the first is black, the next has red 1, ..."""
    for red, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(red, "PNG" if path.suffix == ".png" else "JPEG"))
    return folder


def shown(images: ImageSet, positions: Sequence[int] | None = None) -> list[int]:
    """The red of each image."""
    positions = range(len(images)) if positions is None else positions
    return [image.getpixel((0, 0))[0] for image in images.decoded(positions)]


def test_names_say_the_row_whatever_the_suffix_and_the_number_of_digits(tmp_path: Path) -> None:
    write(tmp_path, "2.png", "00001.png", "0.png")
    (tmp_path / "prompts.txt").write_text("no image")
    (tmp_path / ".00007.png").write_text("hidden")
    images = open_images(tmp_path, lambda: PROMPTS)
    assert images.names == ["0.png", "00001.png", "2.png"]
    assert images.prompts == ["prompt 0", "prompt 1", "prompt 2"]
    assert [groups["category"] for groups in images.groups] == ["A", "B", "A"]
    assert shown(images) == [2, 1, 0]
    assert not images.by_style


def test_several_images_a_prompt_follow_each_other(tmp_path: Path) -> None:
    write(tmp_path, "0_10.webp", "0_9.jpeg", "1-9.JPG", "01_10.png", "2_9.jpg", "2-10.jpg")
    images = open_images(tmp_path, lambda: PROMPTS)
    assert images.names == ["0_9.jpeg", "0_10.webp", "1-9.JPG", "01_10.png", "2_9.jpg", "2-10.jpg"]
    assert images.prompts == [f"prompt {i}" for i in (0, 0, 1, 1, 2, 2)]


def test_a_folder_a_style_counts_rows_within_the_style(tmp_path: Path) -> None:
    """As HPSv2's benchmark has it; the prompts' order need not go by style."""
    prompts = [Prompt(f"{style} {i}", {"style": style}) for i in (0, 1) for style in ("b", "a")]
    write(tmp_path, "a/00000.jpg", "a/00001.jpg", "b/00000.jpg", "b/00001.jpg")
    images = open_images(tmp_path, lambda: prompts)
    assert images.names == ["b/00000.jpg", "a/00000.jpg", "b/00001.jpg", "a/00001.jpg"]
    assert images.prompts == ["b 0", "a 0", "b 1", "a 1"]
    assert images.by_style


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_a_manifest_lists_paths_and_prompts(tmp_path: Path, suffix: str) -> None:
    write(tmp_path, "x/0.png", "x/1.png", "x/2.png")
    rows = [
        {"file_name": "x/2.png", "text": 'say "a', "Category": "B", "mood": "calm"},
        {"file_name": str(tmp_path / "x" / "1.png"), "text": "b", "Category": "", "mood": "2"},
    ]
    path = tmp_path / f"list{suffix}"
    match suffix:
        case ".csv":
            pd.DataFrame(rows).to_csv(path, index=False, encoding="utf-8-sig")
        case ".tsv":
            lines = ["\t".join(cells) for cells in (rows[0].keys(), *(r.values() for r in rows))]
            path.write_text("\r\n".join(lines))
        case ".jsonl":
            path.write_text("\n\n".join(map(json.dumps, rows)))
        case ".parquet":
            pd.DataFrame(rows).to_parquet(path)
    images = open_images(path, None, ["mood"])
    assert images.prompts == ['say "a', "b"]
    assert images.groups == [{"category": "B", "mood": "calm"}, {"mood": "2"}]
    assert images.names[0] == "x/2.png"
    assert shown(images) == [2, 1]
    assert open_images(path, None).group_names == ["category"]


@pytest.mark.parametrize("form", ["bytes", "struct"])
def test_images_inside_a_parquet_file_are_read_in_part(tmp_path: Path, form: str) -> None:
    data = [encoded(i) for i in range(50)]
    cells = data
    if form == "struct":
        cells = [{"bytes": d, "path": f"{i}.png" if i else None} for i, d in enumerate(data)]
    table = pa.table({"image": cells, "prompt": [f"p {i}" for i in range(50)], "style": ["a"] * 50})
    path = tmp_path / "images.parquet"
    pq.write_table(table, path, row_group_size=20)
    images = open_images(path, None)
    assert len(images) == 50
    assert images.names[:2] == (["row 0", "1.png"] if form == "struct" else ["row 0", "row 1"])
    assert images.prompts[49] == "p 49"
    assert not images.by_style
    assert shown(images) == [*range(50)]
    assert shown(images, [0, 19, 20, 45, 49]) == [0, 19, 20, 45, 49]
    assert shown(images, []) == []


def test_a_row_group_without_a_wanted_row_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "images.parquet"
    table = pa.table({"image": [encoded(i) for i in range(50)], "prompt": ["p"] * 50})
    pq.write_table(table, path, row_group_size=10)
    images, read = open_images(path, None), []
    original = pq.ParquetFile.iter_batches

    def noted(self: pq.ParquetFile, *arguments: object, **options: object) -> object:
        read.append(options["row_groups"])
        return original(self, *arguments, **options)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", noted)
    assert shown(images, [12, 13, 49]) == [12, 13, 49]
    assert read == [[1], [4]]


def test_images_that_datasets_has_not_embedded_are_read_by_their_paths(tmp_path: Path) -> None:
    write(tmp_path, "x/0.png", "x/1.png")
    path, struct = tmp_path / "a.parquet", pa.struct({"bytes": pa.binary(), "path": pa.string()})
    names = ["x/1.png", str(tmp_path / "x" / "0.png")]
    for kind in (struct, None):
        cells = pa.array([{"bytes": None, "path": name} for name in names], kind)
        pq.write_table(pa.table({"image": cells, "prompt": ["a", "b"]}), path)
        images = open_images(path, None)
        assert (images.names, shown(images)) == (names, [1, 0])
    mixed = [{"bytes": None, "path": names[0]}, {"bytes": encoded(7), "path": "gone.png"}]
    pq.write_table(pa.table({"image": pa.array(mixed, struct), "prompt": ["a", "b"]}), path)
    images = open_images(path, None)
    assert [*images.encoded([0, 1])] == [b"", encoded(7)]


def test_categories_of_pandas_are_their_values(tmp_path: Path) -> None:
    write(tmp_path, "0.png", "1.png")
    frame = pd.DataFrame({"image": ["1.png", "0.png", "1.png"], "prompt": ["a", "b", "a"]})
    frame.astype("category").to_parquet(tmp_path / "a.parquet")
    images = open_images(tmp_path / "a.parquet", None)
    assert (images.prompts, shown(images)) == (["a", "b", "a"], [1, 0, 1])
    cells = pa.array([encoded(5), encoded(6), encoded(5)]).dictionary_encode()
    pq.write_table(pa.table({"image": cells, "prompt": ["a"] * 3}), tmp_path / "b.parquet")
    assert shown(open_images(tmp_path / "b.parquet", None)) == [5, 6, 5]


@pytest.mark.parametrize("cell", [3, [1, 2], {"path": "0.png"}, {"bytes": "0.png"}])
def test_columns_that_hold_no_images_are_refused_by_their_type(
    tmp_path: Path, cell: object
) -> None:
    table = pa.table({"image": [cell], "prompt": ["a"]})
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(BenchError) as error:
        open_images(tmp_path / "a.parquet", None)
    kind = pq.read_schema(tmp_path / "a.parquet").field("image").type
    assert f"column 'image' is of type {kind}; expected encoded images" in str(error.value)


def test_a_parquet_file_without_rows_is_refused(tmp_path: Path) -> None:
    for kind in (pa.binary(), pa.string(), pa.struct({"bytes": pa.binary()})):
        table = pa.table({"image": pa.array([], kind), "prompt": pa.array([], pa.string())})
        pq.write_table(table, tmp_path / "a.parquet")
        with pytest.raises(BenchError, match="lists no image"):
            open_images(tmp_path / "a.parquet", None)


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_cells_group_is_the_same_for_images_and_for_prompts(tmp_path: Path, suffix: str) -> None:
    write(tmp_path, "0.png")
    path = tmp_path / f"a{suffix}"
    rows = [
        {"image": "0.png", "prompt": "a", "category": number, "style": text}
        for number, text in ((0, " ink"), (1, " "), (None, None))
    ]
    if suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        # The column becomes one of floats, as pandas has no gaps among integers.
        pd.DataFrame(rows).to_parquet(path)
    expected = [{"category": "0", "style": "ink"}, {"category": "1"}, {}]
    assert open_images(path, None).groups == expected
    assert [prompt.groups for prompt in PromptFile(path=str(path)).load()] == expected
    (tmp_path / "b.jsonl").write_text('{"image": "0.png", "prompt": "a", "category": ["x"]}')
    with pytest.raises(BenchError, match=r"line 1: 'category' holds list; a group is a text or"):
        open_images(tmp_path / "b.jsonl", None)


def test_spaces_after_the_commas_of_a_header_are_no_part_of_names(tmp_path: Path) -> None:
    write(tmp_path, "0.png")
    (tmp_path / "a.csv").write_text("image, prompt ,category\n0.png,a, B \n\n")
    images = open_images(tmp_path / "a.csv", None)
    assert (images.prompts, images.groups) == (["a"], [{"category": "B"}])


def test_a_prompt_without_a_style_is_named_where_folders_are_styles(tmp_path: Path) -> None:
    write(tmp_path, "a/0.png")
    prompts = [Prompt("x", {"style": "a"}), Prompt("y", {})]
    with pytest.raises(BenchError, match=r"holds a folder a style, but 1 prompt of no style \('y'"):
        open_images(tmp_path, lambda: prompts)


def test_what_the_system_refuses_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    write(tmp_path, "0.png")
    images = open_images(tmp_path, lambda: PROMPTS[:1])
    (tmp_path / "0.png").unlink()
    with pytest.raises(BenchError, match=r"0\.png: cannot be read \(No such file or directory\)"):
        images.state()
    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(BenchError, match=r": cannot be read \(Permission denied\)"):
        open_images(tmp_path, lambda: PROMPTS)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["0.png", "2.png"], "3 prompts: 1 image missing (00001)"),
        (["0.png", "1.png", "2.png", "3.png", "9.png"], "2 images without a prompt (3.png, 9.png)"),
        (["00001.png", "00002.png", "00003.png"], "the first prompt's row is 0: rename them"),
        (["0_0.png", "0_1.png", "1_0.png", "2_1.png"], "2 images missing (00001_1, 00002_0)"),
        (["0.png", "1.png", "2.png", "grid.png"], "1 name without a prompt's row: grid.png"),
        (["0.png", "00000.jpg", "1.png", "2.png"], "0.png and 00000.jpg are named alike"),
        (["images/0.png"], "holds no image (.jpeg, .jpg, .png, .webp); it has folders of images"),
        ([], "holds no image"),
    ],
)
def test_a_folder_that_does_not_fit_is_refused(
    tmp_path: Path, names: list[str], message: str
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    write(folder, *names)
    with pytest.raises(BenchError) as error:
        open_images(folder, lambda: PROMPTS)
    assert str(error.value).startswith(str(folder))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a/0.png", "c/0.png"], "not the folder of a style: c; the prompts' styles are a, b"),
        (["a/0.png", "b/0.png", "grid.png"], "not the folder of a style: grid.png"),
        (["a/0.png"], "2 prompts: 1 image missing (b/00000)"),
        (["a/0.png", "b/0.png", "b/1.png"], "1 image without a prompt (b/1.png)"),
        (["a/1.png", "b/1.png"], "the first prompt's row is 0: rename them"),
    ],
)
def test_styles_that_do_not_fit_are_refused(tmp_path: Path, names: list[str], message: str) -> None:
    prompts = [Prompt(style, {"style": style}) for style in ("a", "b")]
    write(tmp_path, *names)
    with pytest.raises(BenchError) as error:
        open_images(tmp_path, lambda: prompts)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "image,prompt\n0.png,red, round\n", "line 2 has 3 of 2 columns"),
        ("a.csv", "image,prompt\n0.png\n", "line 2 has 1 of 2 columns"),
        (
            "a.csv",
            'image,prompt\n0.png,"open\n',
            "line 2: unexpected end of data; a quoted field ends with",
        ),
        ("a.csv", "image,prompt\n0.png,\n\n", "line 2: 'prompt' is empty"),
        ("a.csv", "image,prompt\n\n0.png,a\n", "line 2 is empty; remove it"),
        ("a.csv", "image,prompt,image\n0.png,a,1.png\n", "the column 'image' is there twice"),
        ("a.tsv", "image\tprompt\n0.png\ta\tb\n", "line 2 has 3 of 2 columns"),
        ("a.csv", "image,words\n0.png,a\n", "no column is called prompt, caption or text; it has"),
        ("a.csv", "picture,prompt\n0.png,a\n", "no column is called image, file_name or path"),
        ("a.csv", "image,prompt\n7.png,a\n0.png,b\n8.png,c\n", "2 of the 3 images that it lists"),
        ("a.csv", "image,prompt\n", "lists no image"),
        ("a.csv", "", "the first line is empty; expected the names of the columns"),
        ("a.jsonl", '{"image": "0.png", "prompt": 3}', "line 1: 'prompt' holds int, no text"),
        ("a.jsonl", '{"image": "0.png"}\n{"prompt"', "line 2: not valid JSON"),
        ("a.jsonl", '["0.png"]', "line 1 is of type list; expected"),
        ("a.parquet", "no", "a.parquet: not a readable Parquet file"),
        ("a.yaml", "", "expected a folder of images, or a file that lists them (.csv, .tsv"),
    ],
)
def test_a_manifest_that_cannot_be_used_is_one_sentence(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    write(tmp_path, "0.png")
    (tmp_path / name).write_text(text)
    with pytest.raises(BenchError) as error:
        open_images(tmp_path / name, None)
    assert str(error.value).startswith(str(tmp_path / name))
    assert message in str(error.value)


def test_text_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"image,prompt\n0.png,caf\xe9\n")
    with pytest.raises(BenchError, match=r"a\.csv: line 2: not UTF-8 \(byte 0xe9\)"):
        open_images(tmp_path / "a.csv", None)


def test_prompts_are_asked_for_where_they_are_needed_and_refused_where_not(tmp_path: Path) -> None:
    write(tmp_path, "0.png")
    (tmp_path / "a.csv").write_text("image,prompt\n0.png,a\n")
    with pytest.raises(BenchError, match="say with --prompts what its images show"):
        open_images(tmp_path, None)
    with pytest.raises(BenchError, match="leave --prompts out"):
        open_images(tmp_path / "a.csv", lambda: PROMPTS)
    with pytest.raises(BenchError, match="no such file or folder"):
        open_images(tmp_path / "gone.csv", None)


def test_a_broken_image_is_named(tmp_path: Path) -> None:
    write(tmp_path, "0.png", "1.png", "2.png")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "1.png")
    (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes()[:3000])
    with pytest.raises(BenchError, match=r"1\.png: image file is truncated"):
        shown(open_images(tmp_path, lambda: PROMPTS))
