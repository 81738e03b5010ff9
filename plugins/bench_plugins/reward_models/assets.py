"""Files that reward models are made of, and how they are known before they are here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench import option
from bench.files import hub


@dataclass(frozen=True, kw_only=True)
class Asset:
    """Files of a Hub repository or of a local folder, or a local file itself."""

    source: str
    """Hub id, local folder or local file."""
    filename: str = ""
    """Name of the one file inside the repository or folder; or "" and `patterns`."""
    patterns: tuple[str, ...] = ()
    """Which files are wanted, in their folder."""
    revision: str
    """Commit, branch or tag of a Hub id."""
    sha256: str = ""
    """Of the bytes that the Hub must give; "" where nobody has published it."""

    def at(self, source: str, revision: str) -> Asset:
        """The same file elsewhere; this pin and checksum hold for this source alone."""
        if source == self.source:
            return (
                self if revision == self.revision else replace(self, revision=revision, sha256="")
            )
        revision = "main" if revision == self.revision else revision
        return replace(self, source=source, revision=revision, sha256="")

    def fetch(self) -> Path:
        """The local file or folder, downloaded if need be."""
        if self.patterns:
            return hub.fetch_folder(self.source, revision=self.revision, patterns=self.patterns)
        return hub.fetch_file(
            self.source, self.filename, revision=self.revision, sha256=self.sha256
        )

    def fingerprint(self) -> str:
        """What identifies the bytes: their sha256 where it is known, else the Hub's commit.

        Nothing is downloaded, and a local copy of a file whose sha256 is known has the same
        fingerprint as the original.
        """
        if self.patterns:
            return hub.fingerprint(self.source, revision=self.revision, patterns=self.patterns)
        if hub.local(self.source) is not None:
            return hub.cached_sha256(self.fetch())
        if self.sha256:
            return self.sha256
        return f"{hub.fingerprint(self.source, revision=self.revision)}/{self.filename}"


def source_option(asset: Asset) -> Any:
    """The option that says where a scorer's file comes from."""
    return option(asset.source, f"Hub id, folder or file: {asset.filename}", affects_results=False)


def revision_option(asset: Asset) -> Any:
    """The option that says which commit of its Hub id."""
    return option(asset.revision, f"commit, branch or tag of {asset.source}", affects_results=False)
