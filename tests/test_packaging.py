"""What is installed agrees with what every package asks for, as `pip check` would find."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from bench.registry.registry import OWN_PACKAGE

NEVER = {
    "hpsv2",
    "image-reward",
    "clint",
    "fairscale",
    "openai-clip",
    "hpsv3",
    "t2v-metrics",
    "pyiqa",
}
"""What would drag the whole environment back to old versions; see docs/isolation.md."""


def test_no_package_is_missing_or_of_a_wrong_version() -> None:
    waiting, seen, wrong = [(OWN_PACKAGE, frozenset({""}))], set(), []
    while waiting:
        name, extras = waiting.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        for text in distribution(name).requires or []:
            need = Requirement(text)
            if need.marker and not any(need.marker.evaluate({"extra": e}) for e in extras):
                continue
            try:
                version = distribution(need.name).version
            except PackageNotFoundError:
                wrong.append(f"{name} needs {text}, which is not installed")
                continue
            if not need.specifier.contains(version, prereleases=True):
                wrong.append(f"{name} needs {text}, but {version} is installed")
            waiting.append((canonicalize_name(need.name), frozenset({"", *need.extras})))
    assert not wrong
    assert {"torch", "open-clip-torch", "torchvision", "transformers"} <= {name for name, _ in seen}
    assert not NEVER & {name for name, _ in seen}
