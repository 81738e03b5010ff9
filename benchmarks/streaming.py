"""Memory and speed of streaming 10,000 preference pairs of realistic size.

Writes a Parquet file in Pick-a-Pic v2's schema (512x512 JPEGs of about 80 kB, 1.7 GB in all) to a
temporary folder, with the row groups of the suite's own converter and with those of the original
files on the Hub (1,000 rows). Then it looks at every pair as `bench run` does in its first stage,
and reads and decodes all images in order as labelling does, each in a process of its own. Memory
is the peak of the process's resident memory above what it holds once all is imported. The folder
is removed.

    python benchmarks/streaming.py [--pairs 10000] [--folder /tmp]
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from bench_plugins.preference_sets import PickAPic
from PIL import Image

from bench.api.kinds import PreferenceImage, PreferencePair
from bench.lib.cost_meter import Meter
from bench.lib.distributed import ALONE
from bench.lib.images import decode
from bench.lib.prefetch import ahead
from bench.preferences.inspecting import inspect
from bench.preferences.writing import PairWriter
from bench.recipe.recipe import PairFilters

SIDE, PICTURES, HUB_ROW_GROUP = 512, 32, 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=10_000)
    parser.add_argument("--folder", default=None, help="where the temporary folder is made")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for name, write in (("own row groups", write_own), ("row groups of 1,000", write_hub)):
            path = Path(folder) / "pairs.parquet"
            write(path, options.pairs)
            print(f"{name}: {options.pairs} pairs, {path.stat().st_size / 1e9:.2f} GB")
            for work in (inspect_all, decode_all):
                process = get_context("spawn").Process(target=measure, args=(work, path))
                process.start()
                process.join()
            path.unlink()


def measure(work: Callable[[Path], int], path: Path) -> None:
    before, start, meter = resident_mb(), time.monotonic(), Meter("cpu")
    pairs = work(path)
    seconds = time.monotonic() - start
    above = meter.peak_memory_mb - before
    print(f"  {work.__name__:<12} {above:6.0f} MB above the start {pairs / seconds:6.0f} pairs/s")


def resident_mb() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024 / 1e6


def inspect_all(path: Path) -> int:
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        counts = inspect(
            PickAPic(path=str(path)),
            PairFilters(ties="drop", per_prompt=20, min_resolution=256),
            max_broken_share=0.02,
            folder=Path(folder),
            work=Path(folder),
            world=ALONE,
            advance=lambda done: None,
        )
    return counts["pairs"]


def decode_all(path: Path) -> int:
    pairs = PickAPic(path=str(path))
    encoded = (image.data for pair in pairs.read() for image in pair.images)
    return sum(image.size == (SIDE, SIDE) for image in ahead(decode, encoded, 64)) // 2


def pictures() -> list[bytes]:
    """JPEGs of shapes under noise, of the size that Stable Diffusion's images have."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(PICTURES):
        coarse = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
        noisy = smooth + rng.normal(0, 14, (SIDE, SIDE, 1))
        buffer = io.BytesIO()
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=80)
        found.append(buffer.getvalue())
    return found


def synthetic(count: int) -> Iterator[PreferencePair]:
    """Pairs whose images differ from all others in a comment inside the JPEG."""
    drawn = pictures()

    def image(number: int) -> bytes:
        data, note = drawn[number % PICTURES], f"{number:09d}".encode()
        return data[:2] + b"\xff\xfe" + (len(note) + 2).to_bytes(2, "big") + note + data[2:]

    for row in range(count):
        yield PreferencePair(
            row=row,
            caption=f"a synthetic picture, number {row // 8}",
            images=(
                PreferenceImage(data=image(2 * row), model="a"),
                PreferenceImage(data=image(2 * row + 1), model="b"),
            ),
            human=(1.0, 0.0, 1.0, 0.5)[row % 4],
        )


def write_own(path: Path, count: int) -> None:
    with PairWriter(path, {"made_by": "benchmarks/streaming.py"}) as writer:
        for pair in synthetic(count):
            writer.add(pair)


def write_hub(path: Path, count: int) -> None:
    """As `datasets` wrote the original's shards: large row groups, compressed with Snappy."""
    waiting: list[PreferencePair] = []
    writer = None
    for pair in synthetic(count):
        waiting.append(pair)
        if len(waiting) == HUB_ROW_GROUP or pair.row == count - 1:
            columns = {
                "caption": [pair.caption for pair in waiting],
                "jpg_0": [pair.images[0].data for pair in waiting],
                "jpg_1": [pair.images[1].data for pair in waiting],
                "label_0": [pair.human for pair in waiting],
            }
            table = pa.table(columns)
            writer = writer or pq.ParquetWriter(path, table.schema)
            writer.write_table(table)
            waiting.clear()
    if writer:
        writer.close()


if __name__ == "__main__":
    main()
