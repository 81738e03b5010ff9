"""The prompt sets that papers report: from the Hub, pinned, or from a local copy.

A source on the Hub is pinned by its commit, its files' sha256, or both. A local path is the user's
own choice: its form is checked, its content is not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from bench import BenchError, Prompt, PromptSet, option
from bench.files import expanded, hub, tables
from bench_plugins.prompt_sets.tables import prompts_of, read_prompts

_REVISION = "commit, branch or tag on the Hub"
_DRAWBENCH_LIST = "drawbench.json"
"""HPDv2 keeps DrawBench's prompts beside its own four lists."""
HPDV2_STYLES: Mapping[str, str] = {
    "anime": "6b38a479cc6f899866e9b7a8bf91f096b4afc6883b95275a61891327182b14ae",
    "concept-art": "530d057deafcb82c581e9d1be2ffcb98828fe99f0b54257414d2ab8a5cf2b83e",
    "paintings": "6570d39467e08b24b64e5b8a4177b0f61c525631121dc5a91fe2ab956eab4d5f",
    "photo": "92a3c9a0f743f66eb87bd112cdda830d6bdb4c073c86021d53b74001fcb18052",
}
"""Style -> sha256 of its list on the Hub: one line of ASCII, which is what json.dumps writes."""


@dataclass(frozen=True, kw_only=True)
class Published(PromptSet):
    """Prompts in files of a data set on the Hub."""

    files: ClassVar[Mapping[str, str]]
    """Name in the data set -> sha256 of what it holds; "": the commit alone pins it."""
    size: ClassVar[int]
    """Published number of prompts."""
    path: str
    revision: str

    def published_count(self) -> int | None:
        """The published number, while a file would have to be downloaded."""
        here = all(
            hub.is_here(self.path, name, revision=self.revision, repo_type="dataset")
            for name in self.files
        )
        return None if here else self.size

    def _fetched(self, name: str) -> Path:
        """A file of the data set, or the local file that stands for it."""
        return hub.fetch_file(
            self.path,
            name,
            revision=self.revision,
            sha256=self.files[name],
            repo_type="dataset",
        )


@dataclass(frozen=True, kw_only=True)
class PartiPrompts(Published):
    """PartiPrompts (P2): 1,632 prompts by category and challenge.

    A .tsv file with the columns Prompt, Category, Challenge and Note; quoting is off, as one
    prompt begins with a quote character (the `datasets` library's default reading drops it).
    Groups: category (12), challenge (11). All prompts differ.

    Source: google-research/parti, PartiPrompts.tsv; the Hub copy is the same file, byte for
    byte. Licence: Apache-2.0.
    """

    name: ClassVar[str] = "parti"
    size: ClassVar[int] = 1632
    files: ClassVar[Mapping[str, str]] = {
        "PartiPrompts.tsv": "fab29e41bb512a169b56acab4cf2a41dcb675e285df2efcde6640c7dd3c440eb"
    }
    """The file of google-research/parti and the Hub's are alike."""
    path: str = option(
        "nateraw/parti-prompts",
        "the .tsv file, or the Hub data set that holds it",
        affects_results=False,
    )
    revision: str = option(
        "944b156abfdad7627c3221b5ec4f6a6fb060a197", _REVISION, affects_results=False
    )

    @classmethod
    def reads(cls, path: Path) -> bool:
        """A .tsv file with the official columns."""
        official = {"Prompt", "Category", "Challenge"}
        return path.suffix.lower() == ".tsv" and official <= tables.peek(path)

    def load(self) -> tuple[Prompt, ...]:
        """All rows in file order."""
        groups = {"category": "Category", "challenge": "Challenge"}
        return read_prompts(self._fetched(*self.files), "Prompt", groups)


@dataclass(frozen=True, kw_only=True)
class HPDv2(Published):
    """HPDv2 benchmark (HPSv2): 3,200 prompts, 800 in each of four styles.

    JSON lists of prompts, one a style, named by it: anime, concept-art, paintings, photo. A
    folder of such lists works with any styles, and so does a single list. Group: style (4).
    3,172 prompts differ; duplicates stay rows. "HPDv2 test" of other papers is another set.

    Source: `benchmark/` of zhwang/HPDv2 on the Hub; drawbench.json beside it is the prompt set
    `drawbench`. Licence: Apache-2.0.
    """

    name: ClassVar[str] = "hpdv2"
    size: ClassVar[int] = 3200
    files: ClassVar[Mapping[str, str]] = {
        f"benchmark/{style}.json": sha256 for style, sha256 in HPDV2_STYLES.items()
    }
    path: str = option(
        "zhwang/HPDv2",
        "the folder of .json lists, one list, or the Hub data set",
        affects_results=False,
    )
    revision: str = option(
        "b9517430f34b1080d4f741118d2a440155a165cd", _REVISION, affects_results=False
    )

    @classmethod
    def reads(cls, path: Path) -> bool:
        """A .json list of texts, and a folder that holds .json files."""
        if path.is_dir():
            return bool(_style_files(path))
        return path.name != _DRAWBENCH_LIST and tables.holds_texts(path)

    def load(self) -> tuple[Prompt, ...]:
        """All prompts, styles by name, each in its file's order."""
        return tuple(
            Prompt(prompt.text, {"style": file.stem})
            for file in self._files()
            for prompt in read_prompts(file, "prompt", {})
        )

    def _files(self) -> list[Path]:
        here = hub.local(self.path)
        if here is None:
            return [self._fetched(name) for name in self.files]
        files = _style_files(here) if here.is_dir() else [here]
        if not files:
            raise BenchError(f"{here}: the folder holds no .json list of prompts")
        return files


def _style_files(folder: Path) -> list[Path]:
    return sorted(
        file
        for file in folder.iterdir()
        if file.suffix.lower() == ".json"
        and not file.name.startswith(".")
        and file.name != _DRAWBENCH_LIST
        and hub.is_file(file)
    )


@dataclass(frozen=True, kw_only=True)
class PickAPicTest(Published):
    """Pick-a-Pic v2 test_unique: the captions of 500 rows, 487 of which differ.

    A .parquet file in Pick-a-Pic's schema; only the column `caption` is read, never an image.
    No groups. Duplicates stay rows. Prompts are real users' and partly unsafe for work.

    Source: yuvalkirstain/pickapic_v2_no_images, split test_unique (one file of 151 kB). The
    authors' data sets are reported to have left the Hub in 2025 (yuvalkirstain/PickScore,
    issue 36), so give a local copy or a mirror. Licence: UNKNOWN.
    """

    name: ClassVar[str] = "pickapic-test"
    size: ClassVar[int] = 500
    files: ClassVar[Mapping[str, str]] = {
        "data/test_unique-00000-of-00001-e852c19ead276a89.parquet": (
            "6575ecb7f4f24b0f1a4a4359ffdab7ab66cbecb93273418bf0d53ac87049b2ec"
        )
    }
    """As the Hub's page of the file states it."""
    path: str = option(
        "yuvalkirstain/pickapic_v2_no_images",
        "the .parquet file, or the Hub data set that holds it",
        affects_results=False,
    )
    revision: str = option(
        "main", f"{_REVISION}; the checksum pins the content", affects_results=False
    )

    @classmethod
    def reads(cls, path: Path) -> bool:
        """A .parquet file in Pick-a-Pic's schema."""
        schema = {"caption", "label_0"}
        return path.suffix.lower() == ".parquet" and schema <= tables.peek(path)

    def load(self) -> tuple[Prompt, ...]:
        """The captions in file order."""
        here = hub.local(self.path)
        try:
            file = self._fetched(*self.files)
        except BenchError as error:
            if here is not None:
                raise
            raise BenchError(
                f"{error}; Pick-a-Pic is reported to have left the Hub: a local copy works as "
                f"{self.name}[path=FILE.parquet], a list of its prompts as any .txt file"
            ) from error
        return read_prompts(file, "caption", {})


@dataclass(frozen=True, kw_only=True)
class DrawBench(Published):
    """DrawBench (Imagen): 200 prompts by category.

    A .csv file with the columns Prompts and Category (any case), or HPDv2's drawbench.json, a
    list without categories. Group: category (11), where present.

    Source: the authors' sheet as sayakpaul/drawbench has it on the Hub. The Hub's
    shunk031/DrawBench (columns prompts, category) is a script that fetches the sheet, which
    current versions of `datasets` refuse to run. Licence: UNKNOWN (the latter says so too).
    """

    name: ClassVar[str] = "drawbench"
    size: ClassVar[int] = 200
    files: ClassVar[Mapping[str, str]] = {"DrawBench Prompts - Sheet1.csv": ""}
    path: str = option(
        "sayakpaul/drawbench", "the .csv or .json file, or the Hub data set", affects_results=False
    )
    revision: str = option(
        "ad794cba698c253ffdb6d18eff3fc87b004c1135", _REVISION, affects_results=False
    )

    @classmethod
    def reads(cls, path: Path) -> bool:
        """A .csv file with the columns prompts and category, and HPDv2's drawbench.json."""
        if path.suffix.lower() == ".csv":
            return {"prompts", "category"} <= {c.lower() for c in tables.peek(path)}
        return path.name == _DRAWBENCH_LIST and tables.holds_texts(path)

    def load(self) -> tuple[Prompt, ...]:
        """All rows in file order."""
        table = tables.read(self._fetched(*self.files))
        columns = {name.lower(): name for name in table.columns}
        groups = {"category": columns["category"]} if "category" in columns else {}
        return prompts_of(table, columns.get("prompts", "prompt"), groups)


@dataclass(frozen=True, kw_only=True)
class GenEval(PromptSet):
    """GenEval's 553 prompts by task; as prompts only, its object detector is not run.

    The file evaluation_metadata.jsonl: an object a line with "tag" and "prompt". Group: tag, in
    the official file single_object 80, two_object 99, counting 80, colors 94, position 100,
    color_attr 100.

    Source: github.com/djghosh13/geneval, prompts/evaluation_metadata.jsonl; no copy on the Hub
    could be confirmed, so a local path is needed. Licence: MIT.
    """

    name: ClassVar[str] = "geneval"
    path: str = option(doc="the .jsonl file", affects_results=False)

    @classmethod
    def reads(cls, path: Path) -> bool:
        """A .jsonl file whose objects have "tag" and "prompt"."""
        metadata = {"tag", "prompt"}
        return path.suffix.lower() == ".jsonl" and metadata <= tables.peek(path)

    def load(self) -> tuple[Prompt, ...]:
        """All prompts in file order."""
        return read_prompts(expanded(self.path), "prompt", {"tag": "tag"})


BENCHMARKS: tuple[type[PromptSet], ...] = (PartiPrompts, HPDv2, PickAPicTest, DrawBench, GenEval)
