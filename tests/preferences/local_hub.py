"""A Hub on this machine: the answers that `datasets` and `huggingface_hub` ask the real one for.

What its clients do with the answers (resolving revisions, listing files,
reading parts of them) is their own code, as with the real Hub.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlparse

COMMIT = "c0ffee" + "0" * 34
"""What every revision `main` means."""


@contextmanager
def local_hub(sets: Mapping[str, Mapping[str, bytes]]) -> Iterator[str]:
    """Serve data sets (id -> name -> bytes); gives what HF_ENDPOINT must be."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: Any) -> None:
            """Say nothing."""

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = unquote(urlparse(self.path).path)
            repo, rest = self._asked(path)
            if repo is None:
                self._answer(404, headers={"X-Error-Code": "RepoNotFound"})
                return
            files = sets[repo]
            tree, resolve = f"tree/{COMMIT}", f"resolve/{COMMIT}/"
            if rest.startswith(tree):
                self._json(_tree(files, rest.removeprefix(tree).strip("/")))
            elif rest in ("", "revision/main", f"revision/{COMMIT}"):
                self._json(_info(repo, files))
            elif rest.startswith("revision/"):
                self._answer(404, headers={"X-Error-Code": "RevisionNotFound"})
            elif rest.removeprefix(resolve) in files:
                self._file(files[rest.removeprefix(resolve)])
            else:
                missing = {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}
                self._answer(404, headers=missing)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
            repo, _ = self._asked(unquote(urlparse(self.path).path))
            files = sets[repo] if repo else {}
            asked = parse_qs(body).get("paths", [])
            self._json([_entry(name, files[name]) for name in asked if name in files])

        def _asked(self, path: str) -> tuple[str | None, str]:
            """The data set that a path is about, and the rest of the path."""
            inside = path.removeprefix("/api").removeprefix("/datasets/")
            for repo in sets:
                if f"{inside}/".startswith(f"{repo}/"):
                    return repo, inside.removeprefix(repo).strip("/")
            return None, ""

        def _file(self, data: bytes) -> None:
            headers = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": COMMIT}
            wanted = self.headers.get("Range")
            if not wanted:
                self._answer(200, data, headers)
                return
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            end = min(int(last) + 1 if last else len(data), len(data))
            headers["Content-Range"] = f"bytes {first}-{end - 1}/{len(data)}"
            self._answer(206, data[int(first) : end], headers)

        def _json(self, value: Any) -> None:
            self._answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

        def _answer(
            self, status: int, body: bytes = b"", headers: Mapping[str, str] | None = None
        ) -> None:
            self.send_response(status)
            for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _entry(name: str, data: bytes) -> dict[str, Any]:
    return {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}


def _tree(files: Mapping[str, bytes], folder: str) -> list[dict[str, Any]]:
    inside = {n: d for n, d in files.items() if n.startswith(f"{folder}/") or not folder}
    folders = {name.rpartition("/")[0] for name in inside} - {folder, ""}
    return [
        *(_entry(name, data) for name, data in inside.items()),
        *({"type": "directory", "path": name, "size": 0, "oid": "0" * 40} for name in folders),
    ]


def _info(repo: str, files: Mapping[str, bytes]) -> dict[str, Any]:
    return {
        "_id": "1",
        "id": repo,
        "sha": COMMIT,
        "private": False,
        "gated": False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": [],
        "siblings": [{"rfilename": name} for name in files],
        "createdAt": "2024-01-01T00:00:00.000Z",
        "lastModified": "2024-01-01T00:00:00.000Z",
    }
