"""An in-memory Hugging Face Hub on this machine, for pushing and loading without a network.

    with LoopbackHub(user="your-name") as hub:
        hub.add_repo("org/model", folder)
        subprocess.run(command, env=os.environ | hub.environment(tmp_path))
        hub.files("your-name/model")

The Hub's address is read when `huggingface_hub` is imported, so what is tested runs in a process of its own. The
server knows models, datasets, Spaces and kernels, with branches, tags, pull requests and each commit's own files;
small and large files (LFS); private and gated repositories; and the errors that clients tell apart.
"""

import base64
import hashlib
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

from .hub_repository import (
    Account,
    Commit,
    HubError,
    Repository,
    check_namespace,
    file_oid,
    git_oid,
    is_large,
    missing,
)

# The token of `LoopbackHub.environment`.
TOKEN = "hf_loopback"
Query = dict[str, list[str]]


class LoopbackHub:
    """The server; it runs in a `with` block.

    Args:
        user (`str`): who the token belongs to.
        organizations (`tuple[str, ...]`): namespaces beside `user` that the user may write to.

    Attributes:
        url (`str`): where it listens.
        requests (`list[str]`): method and path of each request, in order.
        accounts (`dict[str, Account]`): who a token belongs to; tests may add some.
        repos (`dict[tuple[str, str], Repository]`): by type and name.
    """

    def __init__(self, user: str = "your-name", organizations: tuple[str, ...] = ()) -> None:
        self.requests: list[str] = []
        self.accounts = {TOKEN: Account(user, organizations)}
        self.repos: dict[tuple[str, str], Repository] = {}
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

    def environment(self, home: Path, token: str | None = TOKEN) -> dict[str, str]:
        """Variables that make a process use this Hub, with a cache of its own; logged in unless `token=None`."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_TOKEN": token or "",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_OFFLINE": "0",
            "NO_PROXY": "127.0.0.1",
        }

    def add_repo(
        self,
        repo_id: str,
        folder: Path,
        repo_type: str = "model",
        *,
        private: bool = False,
        gated: str | bool = False,
        tag: str | None = None,
    ) -> Repository:
        """Put a folder on the Hub, as a new repository or as the next commit of `main`, with a tag if one is named."""
        files = {
            path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
        }
        repo = self.repos.setdefault((repo_type, repo_id), Repository(repo_type, repo_id))
        repo.private, repo.gated = private, gated
        commit = repo.commit(files, "Add a folder", parent=repo.refs.get("refs/heads/main"))
        if tag is not None:
            repo.create_ref("tags", tag, commit)
        return repo

    def files(self, repo_id: str, repo_type: str = "model", revision: str = "main") -> dict[str, bytes]:
        """What a repository holds at a revision: path and content."""
        return self.repos[repo_type, repo_id].at(revision).files


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
        except HubError as error:
            content = json.dumps({"error": error.message}).encode()
            self._send(content, error.status, {"X-Error-Code": error.code, "X-Error-Message": error.message})
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

    def _account(self) -> Account | None:
        """Who asks; nobody without a token."""
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ").strip()
        if token and token not in self.hub.accounts:
            raise HubError(401, "Unauthorized", "Invalid credentials in Authorization header")
        return self.hub.accounts.get(token)

    def _writer(self) -> Account:
        """Who asks, which must be someone."""
        account = self._account()
        if account is None:
            raise HubError(401, "Unauthorized", "Invalid username or password.")
        return account

    def _route(self, path: list[str], query: Query, body: bytes) -> None:
        match (self.command, path):
            case ("GET", ["api", "whoami-v2"]):
                self._send_json(_whoami(self._writer()))
            case ("POST", ["api", "validate-yaml"]):
                self._send_json({"errors": [], "warnings": []})
            case ("POST", ["api", "repos", "create"]):
                self._create(json.loads(body))
            case ("DELETE", ["api", "repos", "delete"]):
                self._delete(json.loads(body))
            case ("PUT", ["objects", digest]):
                if hashlib.sha256(body).hexdigest() != digest:
                    raise HubError(400, "BadRequest", "The content does not have this digest")
                self.hub.objects[digest] = body
                self._send(b"")
            case ("POST", [*names, "info", "lfs", "objects", "batch"]):
                repo = self._repo(_type_of(names[:-2]), [names[-2], names[-1].removesuffix(".git")])
                repo.check_write(self._account(), f"write to the {repo.repo_type}")
                self._send_json({"transfer": "basic", "objects": [*map(self._upload, json.loads(body)["objects"])]})
            case ("GET", ["api", ("models" | "datasets" | "spaces" | "kernels") as kind]):
                self._send_json(self._listed(_type_of([kind]), query))
            case (_, ["api", ("models" | "datasets" | "spaces" | "kernels") as kind, owner, name, *rest]):
                self._repo_api(self._repo(_type_of([kind]), [owner, name]), rest, query, body)
            case ("GET" | "HEAD", [("datasets" | "spaces" | "kernels") as kind, owner, name, "resolve", at, *file]):
                self._resolve(self._repo(_type_of([kind]), [owner, name]), at, "/".join(file))
            case ("GET" | "HEAD", [owner, name, "resolve", at, *file]):
                self._resolve(self._repo("model", [owner, name]), at, "/".join(file))
            case _:
                raise missing(self._account())

    def _repo(self, repo_type: str, name: list[str]) -> Repository:
        """A repository that who asks may know of."""
        repo = self.hub.repos.get((repo_type, "/".join(name)))
        if repo is None:
            raise missing(self._account())
        repo.check_seen(self._account())
        return repo

    def _create(self, wanted: dict[str, Any]) -> None:
        account, repo_type = self._writer(), wanted.get("type") or "model"
        repo_id = f"{wanted.get('organization') or account.user}/{wanted['name']}"
        check_namespace(account, repo_id, f"create a {repo_type}")
        repo = self.hub.repos.get((repo_type, repo_id))
        exists = repo is not None
        if repo is None:
            repo = Repository(repo_type, repo_id, wanted.get("visibility") == "private", sdk=wanted.get("sdk"))
            repo.commit({".gitattributes": b"*.safetensors filter=lfs\n"}, "initial commit", author=account.user)
            self.hub.repos[repo_type, repo_id] = repo
        self._send_json({"url": f"{self.hub.url}/{repo.path}", "name": repo_id}, 409 if exists else 200)

    def _delete(self, wanted: dict[str, Any]) -> None:
        account = self._writer()
        name = [wanted.get("organization") or account.user, wanted["name"]]
        repo = self._repo(wanted.get("type") or "model", name)
        repo.check_write(account, f"delete the {repo.repo_type}")
        del self.hub.repos[repo.repo_type, repo.repo_id]
        self._send(b"")

    def _listed(self, repo_type: str, query: Query) -> list[dict[str, Any]]:
        """The repositories of a type that who asks may know of, by `author`, `search` and tags (`filter`)."""
        account, listed = self._account(), []
        for (kind, repo_id), repo in sorted(self.hub.repos.items()):
            visible = not repo.private or (account is not None and account.owns(repo_id))
            wanted = repo_id.split("/")[0] in query.get("author", [repo_id.split("/")[0]])
            wanted = wanted and all(text.lower() in repo_id.lower() for text in query.get("search", []))
            if kind == repo_type and visible and wanted:
                info = _info(repo, repo.at("main"))
                if set(query.get("filter", [])) <= set(info["tags"]):
                    listed.append(info)
        return listed[: int(query["limit"][0])] if "limit" in query else listed

    def _upload(self, wanted: dict[str, Any]) -> dict[str, Any]:
        answer = {"oid": wanted["oid"], "size": wanted["size"]}
        if wanted["oid"] not in self.hub.objects:  # without actions the client knows that it is here already
            answer["actions"] = {"upload": {"href": f"{self.hub.url}/objects/{wanted['oid']}"}}
        return answer

    def _repo_api(self, repo: Repository, rest: list[str], query: Query, body: bytes) -> None:
        is_write = self.command in ("POST", "PUT", "DELETE") and rest[:1] != ["paths-info"]
        if is_write and query.get("create_pr") != ["1"]:
            repo.check_write(self._account(), f"write to the {repo.repo_type}")
        match (self.command, rest):
            case ("GET", []):
                self._send_json(_info(repo, repo.at("main")))
            case ("GET", ["revision", at]):
                self._send_json(_info(repo, repo.at(at)))
            case ("GET", ["auth-check"]):
                repo.check_read(self._account())
                self._send(b"")
            case ("GET", ["tree", at, *folder]):
                self._send_json(_tree(repo.at(at).files, "/".join(folder), query.get("recursive") == ["true"]))
            case ("POST", ["paths-info", at]):
                files, paths = repo.at(at).files, parse_qs(body.decode())["paths"]
                self._send_json([entry for entry in _tree(files, "", True) if entry["path"] in paths])
            case ("GET", ["refs"]):
                kinds = {"branches": "heads", "tags": "tags", "pullRequests": "pr"}
                self._send_json({"converts": []} | {key: _refs(repo, kind) for key, kind in kinds.items()})
            case ("GET", ["commits", at]):
                self._send_json(_history(repo.at(at)))
            case ("POST", [("tag" | "branch") as kind, name]):
                self._create_ref(repo, kind, name, json.loads(body or b"{}"))
            case ("DELETE", [("tag" | "branch") as kind, name]):
                repo.delete_ref("tags" if kind == "tag" else "heads", name)
                self._send(b"")
            case ("PUT", ["settings"]):
                settings = json.loads(body)
                repo.gated = settings.get("gated", repo.gated)
                if "visibility" in settings:
                    repo.private = settings["visibility"] == "private"
                self._send_json(settings)
            case ("POST", ["preupload", at]):
                files = repo.at(repo.branch(at)).files
                self._send_json({"files": [_upload_mode(file["path"], files) for file in json.loads(body)["files"]]})
            case ("POST", ["commit", at]):
                lines = [json.loads(line) for line in body.splitlines()]
                self._commit(repo, repo.branch(at), lines, query.get("create_pr") == ["1"])
            case _:
                raise HubError(404, "EntryNotFound")

    def _create_ref(self, repo: Repository, kind: str, name: str, wanted: dict[str, Any]) -> None:
        if kind == "tag":  # the revision is in the path, the name in the body
            repo.create_ref("tags", wanted["tag"], repo.at(name))
        else:
            repo.create_ref("heads", name, repo.at(wanted.get("startingPoint") or "main"))
        self._send(b"")

    def _commit(self, repo: Repository, ref: str, lines: list[dict[str, Any]], is_pull_request: bool) -> None:
        parent, author = repo.refs[ref], self._writer().user
        header = next(line["value"] for line in lines if line["key"] == "header")
        if header.get("parentCommit", parent.sha) != parent.sha:
            raise HubError(412, "PreconditionFailed", "The branch has moved since the parent commit")
        files = dict(parent.files)
        for line in lines:
            value = line["value"]
            match line["key"]:
                case "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    files[value["path"]] = self.hub.objects[value["oid"]]
                case "deletedFile":
                    del files[value["path"]]
                case "deletedFolder":
                    files = {path: content for path, content in files.items() if not path.startswith(value["path"])}
        answer = {}
        if is_pull_request:
            number = len(repo.named("pr")) + 1
            ref = f"refs/pr/{number}"
            answer = {"pullRequestUrl": f"{self.hub.url}/{repo.path}/discussions/{number}"}
        commit = repo.commit(files, header["summary"], header.get("description", ""), author, parent, ref)
        answer |= {"commitUrl": f"{self.hub.url}/{repo.path}/commit/{commit.sha}", "commitOid": commit.sha}
        self._send_json(answer)

    def _resolve(self, repo: Repository, revision: str, path: str) -> None:
        repo.check_read(self._account())
        commit = repo.at(revision)
        headers = {"X-Repo-Commit": commit.sha, "Accept-Ranges": "bytes"}
        if path not in commit.files:
            # With the commit, so that clients remember that the file is not there.
            self._send(b"", 404, headers | {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"})
            return
        content = commit.files[path]
        headers["ETag"] = f'"{file_oid(path, content)}"'
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


def _type_of(kind: list[str]) -> str:
    """The type of repository that a path begins with: `datasets`, `spaces`, `kernels`, else a model."""
    return kind[0].removesuffix("s") if kind else "model"


def _whoami(account: Account) -> dict[str, Any]:
    token = {"displayName": "loopback", "role": account.role}
    return {
        "type": "user",
        "name": account.user,
        "orgs": [{"type": "org", "name": name} for name in account.organizations],
        "auth": {"type": "access_token", "accessToken": token},
    }


def _info(repo: Repository, commit: Commit) -> dict[str, Any]:
    siblings = [{"rfilename": path, "size": len(content)} for path, content in sorted(commit.files.items())]
    card = _card_data(commit.files.get("README.md", b"").decode())
    return {
        "id": repo.repo_id,
        "author": repo.repo_id.split("/")[0],
        "sha": commit.sha,
        "private": repo.private,
        "gated": repo.gated,
        "disabled": False,
        "tags": [str(tag) for tag in card.get("tags") or []],
        "cardData": card,
        "siblings": siblings,
        "sdk": repo.sdk or card.get("sdk"),
    }


def _card_data(card: str) -> dict[str, Any]:
    """The metadata of a card."""
    _, *parts = card.split("---\n", 2) if card.startswith("---\n") else ("",)
    return yaml.safe_load(parts[0]) or {} if len(parts) == 2 else {}


def _refs(repo: Repository, kind: str) -> list[dict[str, str]]:
    return [
        {"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": commit.sha}
        for name, commit in repo.named(kind).items()
    ]


def _history(commit: Commit | None) -> list[dict[str, Any]]:
    """A commit and those before it, newest first."""
    history = []
    while commit is not None:
        authors, date = [{"user": commit.author}], commit.date.strftime("%Y-%m-%dT%H:%M:%S.000Z")
        history.append(
            {"id": commit.sha, "title": commit.title, "message": commit.message, "authors": authors, "date": date}
        )
        commit = commit.parent
    return history


def _upload_mode(path: str, files: dict[str, bytes]) -> dict[str, Any]:
    """How a file is uploaded, and what is there, so that a client sends nothing that has not changed."""
    mode = {"path": path, "uploadMode": "lfs" if is_large(path) else "regular", "shouldIgnore": False}
    return mode | ({"oid": file_oid(path, files[path])} if path in files else {})


def _tree(files: dict[str, bytes], folder: str, recursive: bool) -> list[dict[str, Any]]:
    head = f"{folder}/" if folder else ""
    inside = {path: content for path, content in files.items() if path.startswith(head)}
    if folder and not inside:
        raise HubError(404, "EntryNotFound")
    entries: dict[str, dict[str, Any]] = {}
    for path, content in sorted(inside.items()):
        name, *deeper = path.removeprefix(head).split("/")
        oid, size = git_oid(content), len(content)
        if deeper:
            entries[head + name] = {"type": "directory", "path": head + name, "oid": oid, "size": 0}
        if recursive or not deeper:
            entries[path] = {"type": "file", "path": path, "oid": oid, "size": size}
            if is_large(path):
                entries[path]["lfs"] = {"oid": file_oid(path, content), "size": size, "pointerSize": 130}
    return list(entries.values())
