"""Reading data: the Hub, tables, regular files, JSON, images; and words for messages about them.

Part of the public API, for preference sets, prompt sets and whatever else reads files of users:
what it refuses, it refuses in one sentence that names the file.
"""

from typing import TYPE_CHECKING

from bench.lib import hub, tables
from bench.lib.files import file_sha256
from bench.lib.images import png, upright_rgb
from bench.lib.lazy import lazy
from bench.lib.prefetch import ahead
from bench.lib.reading import (
    MOST_IMAGE,
    below,
    decode_json,
    exists,
    expanded,
    json_value,
    read_bytes,
    read_text,
    require_regular,
)
from bench.lib.wording import cut, listed, quoted

if TYPE_CHECKING:
    from bench.preferences.writing import PROVENANCE, PairWriter
else:
    __getattr__ = lazy(__name__, {"bench.preferences.writing": "PROVENANCE, PairWriter"})

__all__ = [
    "MOST_IMAGE",
    "PROVENANCE",
    "PairWriter",
    "ahead",
    "below",
    "cut",
    "decode_json",
    "exists",
    "expanded",
    "file_sha256",
    "hub",
    "json_value",
    "listed",
    "png",
    "quoted",
    "read_bytes",
    "read_text",
    "require_regular",
    "tables",
    "upright_rgb",
]
