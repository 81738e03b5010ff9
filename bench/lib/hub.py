"""Files from the Hugging Face Hub or from a local path, with one-sentence errors.

Whatever a plugin loads is named by a `source`: a local file or folder, or a Hub id such as
"owner/name". A Hub id goes with a revision; a full commit hash is a pin, anything else is
resolved to the commit that it means now, so that results always name the bytes they came from.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Literal, TypeAlias

from bench.lib import checksums
from bench.lib.errors import BenchError
from bench.lib.files import file_sha256, write_atomic
from bench.lib.reading import exists, expanded, refuse_special
from bench.lib.wording import one_line, quoted

__all__ = [
    "cached_sha256",
    "clear_errors",
    "commit",
    "fetch_file",
    "fetch_folder",
    "files_below",
    "files_hash",
    "fingerprint",
    "is_file",
    "is_here",
    "is_id",
    "local",
]

RepoType: TypeAlias = Literal["model", "dataset"]

_COMMIT = re.compile(r"[0-9a-f]{40}")
_TRANSPORTS = ("requests", "httpx", "httpx2", "httpcore", "httpcore2")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_CLOCK_TICK_NS = 20_000_000
"""Longer than a file system's clock stands still: two writes within may leave the same times."""


def local(source: str) -> Path | None:
    """The local file or folder that `source` names; None if it is a Hub id.

    Raises:
        BenchError: it is written like a path but nothing is there.
    """
    if not source.strip():
        raise BenchError("an empty text is no path and no Hub id; give one")
    path = expanded(source)
    if exists(path):
        refuse_special(path)
        return path
    refuse_broken_link(path)
    if not is_id(source):
        raise BenchError(
            f"there is no file or folder {quoted(source)}; give an existing path or a Hub id such "
            f"as 'owner/name'"
        )
    return None


def is_id(source: str) -> bool:
    """Whether it is written like a Hub id; a relative path of two parts is, too."""
    return bool(_HUB_ID.fullmatch(source))


def refuse_broken_link(path: Path) -> None:
    """Raise where `path`, or the folder that it lies in, is a link that leads nowhere.

    To every question such a link answers that nothing is there, which is not what is wrong.

    Raises:
        BenchError: names the link.
    """
    for place in (path.parent, path):
        # Unlike `Path.is_symlink`, this bears a name of any length.
        if os.path.islink(place) and not exists(place):
            raise BenchError(
                f"{place}: this link leads nowhere (to {os.readlink(place)}); bring back what it "
                f"pointed to, or put a copy in its place"
            )


def is_file(path: Path) -> bool:
    """Whether a file is there.

    Raises:
        BenchError: it, or its folder, is a link that leads nowhere.
    """
    if os.path.isfile(path):
        return True
    refuse_broken_link(path)
    return False


def files_below(folder: Path, patterns: Sequence[str] = ("*",)) -> list[str]:
    """Names, relative to `folder` and sorted, of the files below it that match a pattern.

    Linked files and folders are as good as others; a linked folder that lies in itself is not
    entered twice. Hidden ones are nobody's data: editors, desktops and archivers leave them.

    Args:
        folder: an existing folder.
        patterns: "*" also stands for "/"; the case of letters counts.

    Raises:
        BenchError: a matching file, or a folder that may hold some, is a link that leads nowhere
            or cannot be read.
    """
    names: list[str] = []

    def enter(place: Path, prefix: str, parents: tuple[tuple[int, int], ...]) -> None:
        state = place.stat()
        here = (state.st_dev, state.st_ino)
        if here in parents:
            return
        for entry in sorted(place.iterdir()):
            name = prefix + entry.name
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                enter(entry, f"{name}/", (*parents, here))
            elif any(fnmatchcase(name, pattern) for pattern in patterns):
                if is_file(entry):
                    names.append(name)
            elif any(_may_hold(name, pattern) for pattern in patterns):
                refuse_broken_link(entry)

    try:
        enter(folder, "", ())
    except OSError as error:
        raise BenchError(f"{error.filename}: cannot be read ({error.strerror})") from error
    return sorted(names)


def _may_hold(name: str, pattern: str) -> bool:
    """Whether something below a folder of this name can match; endings make it a file's name."""
    start = re.split(r"[*?\[]", pattern, maxsplit=1)[0]
    inside = f"{name}/"
    return start.startswith(inside) or (inside.startswith(start) and not Path(name).suffix)


def fetch_folder(
    source: str,
    *,
    revision: str,
    patterns: Sequence[str],
    repo_type: RepoType = "model",
) -> Path:
    """The local folder of `source`, downloading the files that match `patterns` if needed.

    Raises:
        BenchError: the Hub or the cache cannot give it; says why and what to do.
    """
    here = local(source)
    if here is not None:
        return here
    from huggingface_hub import constants, snapshot_download

    revision = commit(source, revision, repo_type)
    with clear_errors(source, revision, repo_type):
        return Path(
            snapshot_download(
                source,
                revision=revision,
                allow_patterns=list(patterns),
                repo_type=repo_type,
                # Some versions of the client ask the Hub although it is switched off.
                local_files_only=constants.HF_HUB_OFFLINE,
            )
        )


def fetch_file(
    source: str,
    filename: str,
    *,
    revision: str,
    sha256: str = "",
    repo_type: RepoType = "model",
) -> Path:
    """One file: `source` itself if it is a local file, `filename` in it otherwise.

    Args:
        source: local file, local folder or Hub id.
        filename: path inside the folder or repository.
        revision: for a Hub id.
        sha256: of the expected bytes; "" takes any. Compared for Hub ids alone, since a local
            path is the user's own choice.
        repo_type: for a Hub id.

    Raises:
        BenchError: it cannot be had, or its checksum differs.
    """
    here = local(source)
    if here is not None:
        path = here / filename if here.is_dir() else here
        if not path.is_file():
            raise BenchError(f"{here}: there is no file {filename!r} in this folder")
        return path
    from huggingface_hub import hf_hub_download

    revision = commit(source, revision, repo_type)
    with clear_errors(source, revision, repo_type):
        path = Path(hf_hub_download(source, filename, revision=revision, repo_type=repo_type))
    if sha256 and cached_sha256(path) != sha256:
        raise BenchError(
            f"{source}@{revision}: {filename} has another checksum than expected "
            f"({sha256[:12]}...): it was changed upstream or is damaged; remove {path} to "
            f"download it again, or give a path of your own"
        )
    return path


def is_here(source: str, filename: str, *, revision: str, repo_type: RepoType = "model") -> bool:
    """Whether `fetch_file` would find the file without the network: a local source, or cached."""
    if local(source) is not None:
        return True
    from huggingface_hub import try_to_load_from_cache

    place = try_to_load_from_cache(source, filename, revision=revision, repo_type=repo_type)
    return isinstance(place, str)


def fingerprint(
    source: str, *, revision: str, patterns: Sequence[str] = ("*",), repo_type: RepoType = "model"
) -> str:
    """What identifies the bytes of `source`: a hash of local files, or the Hub commit.

    Nothing is downloaded. A local folder's hash covers names and contents of the files that
    match `patterns`, linked ones included (see `files_below`).

    Raises:
        BenchError: a revision that is no commit hash cannot be resolved now, or no local file
            matches.
    """
    here = local(source)
    if here is None:
        return f"{source}@{commit(source, revision, repo_type)}"
    if here.is_file():
        return cached_sha256(here)
    if not here.is_dir():
        raise BenchError(f"{source}: is neither a file nor a folder")
    names = files_below(here, patterns)
    if not names:
        raise BenchError(
            f"{source}: the folder holds nothing of what is read from it ({', '.join(patterns)})"
        )
    return files_hash(here, names)


def files_hash(folder: Path, names: Iterable[str]) -> str:
    """A hash of the names and contents of files in a folder.

    Raises:
        BenchError: one cannot be read.
    """
    total = hashlib.sha256()
    for name in names:
        total.update(f"{name}\0{cached_sha256(folder / name)}\n".encode())
    return total.hexdigest()


def commit(source: str, revision: str, repo_type: RepoType = "model") -> str:
    """The commit hash that `revision` of a Hub id means; a full hash needs no network.

    The answer holds as long as this process lives, so that a branch that moves meanwhile does not
    mix two states of a repository.

    Raises:
        BenchError: a revision that is no commit hash cannot be resolved now.
    """
    return revision if _COMMIT.fullmatch(revision) else _resolved(source, revision, repo_type)


@cache
def _resolved(source: str, revision: str, repo_type: RepoType) -> str:
    from huggingface_hub import HfApi, constants
    from huggingface_hub.file_download import repo_folder_name

    folder = repo_folder_name(repo_id=source, repo_type=repo_type)
    reference = Path(constants.HF_HUB_CACHE) / folder / "refs" / revision
    if not constants.HF_HUB_OFFLINE:
        with clear_errors(source, revision, repo_type):
            info = HfApi().repo_info(source, revision=revision, repo_type=repo_type)
        sha = str(info.sha)
        # Where downloads by branch note it, for a later run without the network.
        with suppress(OSError):
            reference.parent.mkdir(parents=True, exist_ok=True)
            reference.write_text(sha)
        return sha
    try:
        return reference.read_text().strip()
    except OSError as error:
        raise BenchError(
            f"cannot get {source}@{revision}: the Hub is switched off (HF_HUB_OFFLINE) and the "
            f"cache does not know this revision; give a full commit hash as revision, or the path "
            f"of a local copy"
        ) from error


def cached_sha256(path: Path) -> str:
    """The sha256 of a file, remembered in the user's cache by place, size and times of change.

    Checkpoints of many gigabytes are asked for at every start; unchanged ones are not read again.

    Raises:
        BenchError: it cannot be read.
    """
    try:
        return _cached_sha256(path.resolve())
    except OSError as error:
        raise BenchError(f"{path}: cannot be read ({error.strerror})") from error


def _cached_sha256(real: Path) -> str:
    before = _state(real)
    place = hashlib.sha256(os.fsencode(real)).hexdigest()[:32]
    root = Path(os.environ.get("XDG_CACHE_HOME") or expanded("~/.cache"))
    note = root / "diffusion-preference-bench" / "sha256" / f"{place}.json"
    try:
        known = checksums.read(note)
        if known["state"] == before:
            return str(known["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    started = time.time_ns()
    digest = file_sha256(real)
    if _state(real) != before or before[2] > started - _CLOCK_TICK_NS:
        # Still being written, or so fresh that another write would leave the same times.
        return digest
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(note, checksums.seal({"state": before, "sha256": digest}))
    except OSError:
        # A read-only home costs time, no correctness.
        return digest
    return digest


def _state(file: Path) -> list[int]:
    """What tells one state of a file from the next: size, times, inode.

    Anyone can set the time of change of the content back, nobody that of the inode.
    """
    stat = file.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]


@contextmanager
def clear_errors(source: str, revision: str, repo_type: RepoType) -> Iterator[None]:
    """Turn what the Hub's client raises into one sentence with the remedy."""
    from huggingface_hub import errors

    where = f"{source}@{revision}" if revision else source
    page = f"https://huggingface.co/{'datasets/' if repo_type == 'dataset' else ''}{source}"
    try:
        yield
    except errors.GatedRepoError as error:
        raise BenchError(
            f"{where} is gated: accept its terms at {page}, then run `hf auth login` or set "
            f"HF_TOKEN"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise BenchError(f"{where}: the Hub has no such revision of this {repo_type}") from error
    except errors.RepositoryNotFoundError as error:
        raise BenchError(
            f"{where}: the Hub has no such {repo_type}, or it is private; check the name at "
            f"{page}, and for a private one run `hf auth login`"
        ) from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        raise BenchError(_unreachable(where)) from error
    except errors.EntryNotFoundError as error:
        raise BenchError(f"{where}: {one_line(error)}") from error
    except Exception as error:
        # The client's transport library differs between its versions.
        transport = type(error).__module__.partition(".")[0] in _TRANSPORTS
        if not (transport or isinstance(error, errors.HfHubHTTPError | OSError)):
            raise
        raise BenchError(f"{_unreachable(where)} ({one_line(error)})") from error


def _unreachable(where: str) -> str:
    return (
        f"cannot get {where}: the Hub cannot be reached and the cache does not hold it; check "
        f"the network (and HF_ENDPOINT, HF_HUB_OFFLINE), or give the path of a local copy (a "
        f"relative one as ./folder)"
    )
