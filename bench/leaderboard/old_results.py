"""Result files of schema 1, read as what they say of today's record.

They had no protocols: `sampling` and `configuration` held what is known of them, without the
preference pairs' fingerprint. So their cells are ranked among themselves, in sections of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.lib.errors import BenchError

_SAME = (
    "method",
    "label",
    "seed",
    "backbone",
    "recipe",
    "in_loop",
    "held_out",
    "budget",
    "cost",
    "provenance",
    "evaluations",
)
_GONE = {"backbone_fingerprint", "configuration", "pairs", "sampling", "untrained"}


def upgraded(kind: str, record: Mapping[str, Any]) -> dict[str, Any]:
    """The record of a result of schema 1 as one of today's; other kinds have not changed.

    Values are taken over unread: whoever reads the new record checks them.

    Raises:
        BenchError: a failure, which did not say what it was to be compared with; or a field that
            such records always had is missing.
    """
    if kind == "prompts":
        return dict(record)
    if kind != "result":
        raise BenchError(
            "record is a failure of schema 1, which does not say its protocol; remove the file"
        )
    try:
        return _result(record)
    except (KeyError, TypeError, AttributeError) as error:
        what = f"without {error}" if isinstance(error, KeyError) else f"({error})"
        raise BenchError(f"record is no result of schema 1 {what}") from error


def _result(record: Mapping[str, Any]) -> dict[str, Any]:
    configuration, sampling = record["configuration"], dict(record["sampling"])
    image_seeds = sampling.pop("image_seeds")
    scorers = configuration["scorers"]
    # What was not trained here, such as published weights, took no step.
    trained = not record["untrained"] and record["budget"]["steps"] != 0
    training = {
        "pairs": {"name": record["pairs"]},
        "filters": configuration.get("filters", {}),
        "framing": configuration.get("framing", {}),
        "options": configuration["training"],
    }
    unknown = {name: value for name, value in record.items() if name not in (*_SAME, *_GONE)}
    return {
        **unknown,
        **{name: record[name] for name in _SAME if name in record},
        "base": record["untrained"],
        "pairs": record["pairs"] if trained else "",
        "described": configuration["method"],
        "label_scorers": {
            name: scorers.get(name, {"name": name}) for name in record["in_loop"] if trained
        },
        "evaluation": {
            "backbone": {
                "name": record["backbone"],
                "fingerprint": record["backbone_fingerprint"],
            },
            "sampling": sampling,
            "image_seeds": image_seeds,
            "prompts": {
                part["prompt_set"]: part["prompts_sha256"] for part in record["evaluations"]
            },
            "scorers": scorers,
        },
        "training": training if trained else None,
    }
