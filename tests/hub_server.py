"""An in-memory Hugging Face Hub on this machine, for pushing and loading without a network.

    with LoopbackHub(user="your-name") as hub:
        hub.add_repo("org/model", folder)
        subprocess.run(command, env=os.environ | hub.environment(tmp_path))
        hub.files("your-name/model")

The Hub's address is read when `huggingface_hub` is imported, so what is tested runs in a process of its own. The
server knows models and datasets with one branch, small and large files (LFS), and the errors that clients tell apart.
"""

import base64
import hashlib
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

# Files that a Hub stores as LFS objects.
LARGE_FILES = (".safetensors", ".parquet", ".bin", ".pt", ".arrow")


class LoopbackHub:
    """The server; it runs in a `with` block.

    Args:
        user (`str`): who the token belongs to.

    Attributes:
        url (`str`): where it listens.
        requests (`list[str]`): method and path of each request, in order.
    """

    def __init__(self, user: str = "your-name") -> None:
        self.user = user
        self.requests: list[str] = []
        self.repos: dict[tuple[str, str], dict[str, bytes]] = {}
        self.objects: dict[str, bytes] = {}  # large files by their SHA-256
        self.lock = Lock()

    def __enter__(self) -> "LoopbackHub":
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def environment(self, home: Path) -> dict[str, str]:
        """Variables that make a process use this Hub, with a cache folder of its own."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_TOKEN": "hf_loopback",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_OFFLINE": "0",
            "NO_PROXY": "127.0.0.1",
        }

    def add_repo(self, repo_id: str, folder: Path, repo_type: str = "model") -> None:
        """Put a folder on the Hub."""
        files = {
            path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
        }
        self.repos[repo_type, repo_id] = files

    def files(self, repo_id: str, repo_type: str = "model") -> dict[str, bytes]:
        """What a repository holds: path and content."""
        return self.repos[repo_type, repo_id]


def sha_of(files: dict[str, bytes]) -> str:
    """The commit of a repository: 40 hexadecimal digits that follow from its content."""
    digest = hashlib.sha1()
    for path, content in sorted(files.items()):
        digest.update(path.encode() + b"\0" + hashlib.sha1(content).digest())
    return digest.hexdigest()


class _HubError(Exception):
    """An answer that is an error, as the Hub words it in a header."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__(code)
        self.status, self.code = status, code


class _Handler(BaseHTTPRequestHandler):
    hub: LoopbackHub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self) -> None:
        url = urlsplit(self.path)
        self.hub.requests.append(f"{self.command} {self.path}")
        body = self._body()
        try:
            with self.hub.lock:
                # Parts are decoded one by one: the name of a branch may hold a quoted slash.
                self._route([unquote(part) for part in url.path.strip("/").split("/")], parse_qs(url.query), body)
        except _HubError as error:
            self._send(b"", error.status, {"X-Error-Code": error.code, "X-Error-Message": error.code})
        except (LookupError, ValueError) as error:
            self._send(f"{type(error).__name__}: {error} at {self.command} {self.path}".encode(), 500)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            chunks = []
            while size := int(self.rfile.readline(), 16):
                chunks.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(chunks)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _route(self, path: list[str], query: dict[str, list[str]], body: bytes) -> None:
        match (self.command, path):
            case ("GET", ["api", "whoami-v2"]):
                self._send_json({"type": "user", "name": self.hub.user, "orgs": [], "auth": {"type": "access_token"}})
            case ("POST", ["api", "validate-yaml"]):
                self._send_json({"errors": [], "warnings": []})
            case ("POST", ["api", "repos", "create"]):
                self._create(json.loads(body))
            case ("PUT", ["objects", digest]):
                self.hub.objects[digest] = body
                self._send(b"")
            case ("POST", [*names, "info", "lfs", "objects", "batch"]):
                self._repo(names[:-2], [names[-2], names[-1].removesuffix(".git")])
                self._send_json({"transfer": "basic", "objects": [*map(self._upload, json.loads(body)["objects"])]})
            case (_, ["api", ("models" | "datasets") as kind, owner, name, *rest]):
                self._repo_api(self._repo([kind], [owner, name]), f"{owner}/{name}", rest, query, body)
            case ("GET" | "HEAD", ["datasets", owner, name, "resolve", _, *file]):
                self._resolve(self._repo(["datasets"], [owner, name]), "/".join(file))
            case ("GET" | "HEAD", [owner, name, "resolve", _, *file]):
                self._resolve(self._repo([], [owner, name]), "/".join(file))
            case _:
                raise _HubError(404, "RepoNotFound")

    def _repo(self, kind: list[str], name: list[str]) -> dict[str, bytes]:
        repo_type = "dataset" if kind == ["datasets"] else "model"
        repo = self.hub.repos.get((repo_type, "/".join(name)))
        if repo is None:
            raise _HubError(404, "RepoNotFound")
        return repo

    def _create(self, wanted: dict[str, Any]) -> None:
        repo_type = wanted.get("type") or "model"
        repo_id = f"{wanted.get('organization') or self.hub.user}/{wanted['name']}"
        exists = (repo_type, repo_id) in self.hub.repos
        self.hub.repos.setdefault((repo_type, repo_id), {})
        prefix = "datasets/" if repo_type == "dataset" else ""
        self._send_json({"url": f"{self.hub.url}/{prefix}{repo_id}", "name": repo_id}, 409 if exists else 200)

    def _upload(self, wanted: dict[str, Any]) -> dict[str, Any]:
        answer = {"oid": wanted["oid"], "size": wanted["size"]}
        if wanted["oid"] not in self.hub.objects:  # without actions the client knows that it is here already
            answer["actions"] = {"upload": {"href": f"{self.hub.url}/objects/{wanted['oid']}"}}
        return answer

    def _repo_api(
        self, files: dict[str, bytes], repo_id: str, rest: list[str], query: dict[str, list[str]], body: bytes
    ) -> None:
        match (self.command, rest):
            case ("GET", [] | ["revision", _]):
                siblings = [{"rfilename": path, "size": len(content)} for path, content in sorted(files.items())]
                self._send_json(
                    {"id": repo_id, "sha": sha_of(files), "private": False, "tags": [], "siblings": siblings}
                )
            case ("GET", ["tree", _, *folder]):
                self._send_json(self._tree(files, "/".join(folder), query.get("recursive") == ["True"]))
            case ("POST", ["preupload", _]):
                modes = [
                    {
                        "path": file["path"],
                        "uploadMode": "lfs" if file["path"].endswith(LARGE_FILES) else "regular",
                        "shouldIgnore": False,
                    }
                    for file in json.loads(body)["files"]
                ]
                self._send_json({"files": modes})
            case ("POST", ["commit", _]):
                self._commit(files, [json.loads(line) for line in body.splitlines()])
                sha = sha_of(files)
                self._send_json({"commitUrl": f"{self.hub.url}/{repo_id}/commit/{sha}", "commitOid": sha})
            case _:
                raise _HubError(404, "EntryNotFound")

    def _tree(self, files: dict[str, bytes], folder: str, recursive: bool) -> list[dict[str, Any]]:
        head = f"{folder}/" if folder else ""
        inside = {path: content for path, content in files.items() if path.startswith(head)}
        if folder and not inside:
            raise _HubError(404, "EntryNotFound")
        entries = {}
        for path, content in sorted(inside.items()):
            name, *deeper = path.removeprefix(head).split("/")
            oid = hashlib.sha1(content).hexdigest()
            if deeper:
                entries[head + name] = {"type": "directory", "path": head + name, "oid": oid, "size": 0}
            if recursive or not deeper:
                entries[path] = {"type": "file", "path": path, "oid": oid, "size": len(content)}
        return list(entries.values())

    def _commit(self, files: dict[str, bytes], lines: list[dict[str, Any]]) -> None:
        for line in lines:
            value = line["value"]
            match line["key"]:
                case "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    files[value["path"]] = self.hub.objects[value["oid"]]
                case "deletedFile":
                    del files[value["path"]]

    def _resolve(self, files: dict[str, bytes], path: str) -> None:
        if path not in files:
            raise _HubError(404, "EntryNotFound")
        content = files[path]
        headers = {
            "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
            "X-Repo-Commit": sha_of(files),
            "Accept-Ranges": "bytes",
        }
        wanted = self.headers.get("Range")
        if wanted is None:
            self._send(content, headers=headers)
            return
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        start, end = int(first), int(last) if last else len(content) - 1
        headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
        self._send(content[start : end + 1], 206, headers)

    def _send_json(self, content: Any, status: int = 200) -> None:
        self._send(json.dumps(content).encode(), status, {"Content-Type": "application/json"})

    def _send(self, content: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
