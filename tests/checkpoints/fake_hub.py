"""The few endpoints of the Hugging Face hub that a download and a push need, on localhost, with faults on request."""

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any
from urllib.parse import unquote, urlsplit

REPO = "someone/policy"
Files = dict[str, bytes]


@dataclass
class Hub:
    """One repository, as a chain of commits, and the faults that tests ask for."""

    commits: list[tuple[str, Files]] = field(default_factory=list)
    objects: Files = field(default_factory=dict)  # uploaded, by SHA-256; no commit needs to name them
    requests: list[str] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)  # of the bodies of weights that were asked for
    gated: bool = False
    readonly: bool = False
    cut: int = 0  # this many bodies of weights break off after half of what was asked for
    spoil: str = ""  # this path's body has other bytes, as many as listed
    refuse: str = ""  # requests whose path holds this get a broken connection
    stall: str = ""  # a request whose path holds this is never answered; ``stalled`` tells that it came
    stalled: Event = field(default_factory=Event)
    url: str = ""

    def commit(self, files: Files) -> str:
        name = hashlib.sha1(repr((len(self.commits), sorted(files.items()))).encode()).hexdigest()
        self.commits.append((name, files))
        return name

    @property
    def head(self) -> tuple[str, Files]:
        return self.commits[-1]


@contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    class Handler(_Handler):
        pass

    Handler.hub = hub
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: Any) -> None:
        pass

    def answer(self, content: Any, status: int = 200, **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status: int, code: str = "") -> None:
        self.answer({"error": code}, status, X_Error_Code=code, X_Error_Message=code)

    def path_and_body(self) -> tuple[str, bytes]:
        path = unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.hub.requests.append(f"{self.command} {path}")
        if self.hub.refuse and self.hub.refuse in path:
            self.close_connection = True
            self.connection.shutdown(2)
            raise ConnectionAbortedError
        if self.hub.stall and self.hub.stall in path:
            self.hub.stalled.set()
            while self.connection.recv(1):  # until the client is gone
                pass
            raise ConnectionAbortedError
        return path, body

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except OSError:
            self.close_connection = True

    def commit_of(self, revision: str) -> tuple[str, Files] | None:
        named = [one for one in self.hub.commits if one[0] == revision]
        return self.hub.head if revision == "main" else named[0] if named else None

    def do_GET(self) -> None:
        path, _ = self.path_and_body()
        if REPO not in path:
            return self.refuse(404, "RepoNotFound")
        if self.hub.gated and self.headers.get("Authorization") != "Bearer good":
            return self.refuse(403, "GatedRepo")
        found = re.fullmatch(rf"/api/(?:models|datasets)/{REPO}(?:/(revision|tree)/([^/]+)(?:/(.*))?)?/?", path)
        if found:
            commit = self.commit_of(found[2] or "main")
            if commit is None:
                return self.refuse(404, "RevisionNotFound")
            if found[1] == "tree":
                return self.answer(self.tree(commit[1], found[3] or ""))
            return self.answer(self.info(*commit))
        found = re.fullmatch(rf"(?:/datasets)?/{REPO}/resolve/([^/]+)/(.+)", path)
        commit = self.commit_of(found[1]) if found else None
        if not found or commit is None or found[2] not in commit[1]:
            return self.refuse(404, "EntryNotFound")
        return self.body(commit[0], found[2], commit[1][found[2]])

    do_HEAD = do_GET  # noqa: N815

    def info(self, name: str, files: Files) -> dict[str, Any]:
        return {"id": REPO, "sha": name, "siblings": [{"rfilename": path} for path in files]}

    def tree(self, files: Files, folder: str) -> list[dict[str, Any]]:
        return [
            {"type": "file", "path": path, "size": len(content), "oid": _oid(content)}
            | ({"lfs": {"oid": _sha256(content), "size": len(content), "pointerSize": 1}} if _is_lfs(path) else {})
            for path, content in files.items()
            if path.startswith(folder)
        ]

    def body(self, commit: str, path: str, content: bytes) -> None:
        headers = {"X-Repo-Commit": commit, "ETag": f'"{_sha256(content) if _is_lfs(path) else _oid(content)}"'}
        start = int((re.match(r"bytes=(\d+)-", self.headers.get("Range", "")) or ["", "0"])[1])
        part = content[:start:-1] + b"?" * (start + 1) if path == self.hub.spoil else content[start:]
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        if self.command == "GET" and _is_lfs(path):
            self.hub.starts.append(start)
        if self.command == "GET" and _is_lfs(path) and self.hub.cut:
            self.hub.cut -= 1
            self.send_response(206 if start else 200)
            for name, value in {**headers, "Content-Length": str(len(part))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(part[: len(part) // 2])
            self.wfile.flush()
            self.close_connection = True
            self.connection.shutdown(2)
            return
        self.answer(part, 206 if start else 200, **headers)

    def do_POST(self) -> None:
        path, body = self.path_and_body()
        if self.hub.readonly:
            return self.refuse(403, "no write access")
        if path == "/api/repos/create":
            return self.answer({"url": f"{self.hub.url}/{REPO}"}, 409 if self.hub.commits else 200)
        if path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        if path == f"/api/models/{REPO}/preupload/main":
            files = json.loads(body)["files"]
            return self.answer({"files": [self.mode(file["path"]) for file in files]})
        if path == f"/{REPO}.git/info/lfs/objects/batch":
            return self.answer({"objects": [self.upload(item) for item in json.loads(body)["objects"]]})
        if path == f"/api/models/{REPO}/commit/main":
            return self.receive([json.loads(line) for line in body.splitlines()])
        return self.refuse(404)

    def do_PUT(self) -> None:
        path, body = self.path_and_body()
        self.hub.objects[path.rpartition("/")[2]] = body
        self.answer({})

    def mode(self, path: str) -> dict[str, Any]:
        there = self.hub.head[1].get(path)
        oid = None if there is None else _sha256(there) if _is_lfs(path) else _oid(there)
        return {"path": path, "uploadMode": "lfs" if _is_lfs(path) else "regular", "shouldIgnore": False, "oid": oid}

    def upload(self, item: dict[str, Any]) -> dict[str, Any]:
        upload = {"upload": {"href": f"{self.hub.url}/objects/{item['oid']}", "header": {}}}
        return {"oid": item["oid"], "size": item["size"], "actions": upload}

    def receive(self, lines: list[dict[str, Any]]) -> None:
        header, files = lines[0]["value"], dict(self.hub.head[1])
        if header.get("parentCommit", self.hub.head[0]) != self.hub.head[0]:
            self.refuse(412, "the branch has moved")
            return
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        name = self.hub.commit(files)
        self.answer({"commitOid": name, "commitUrl": f"{self.hub.url}/{REPO}/commit/{name}"})


def _is_lfs(path: str) -> bool:
    return path.endswith(".safetensors")
