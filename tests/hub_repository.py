"""A repository of the Hub on this machine: commits as snapshots, branches, tags, and who may read and write."""

import hashlib
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime

# Files that a Hub stores as LFS objects.
LARGE_FILES = (".safetensors", ".parquet", ".bin", ".pt", ".arrow", ".so")


@dataclass(frozen=True)
class Commit:
    """A snapshot of all files.

    Attributes:
        sha (`str`): 40 hexadecimal digits that follow from the content, the title and the commit before.
        files (`dict[str, bytes]`): path and content.
        title, message, author (`str`): of the commit.
        parent (`Commit`, *optional*): the commit before.
        date (`datetime`): when it was made.
    """

    sha: str
    files: dict[str, bytes]
    title: str
    message: str
    author: str
    parent: "Commit | None"
    date: datetime


class HubError(Exception):
    """An answer that is an error, as the Hub words it in headers: a status, a code, and a sentence."""

    def __init__(self, status: int, code: str, message: str = "") -> None:
        super().__init__(code)
        self.status, self.code, self.message = status, code, message or code


@dataclass(frozen=True)
class Account:
    """Who a token belongs to.

    Attributes:
        user (`str`): the user's name.
        organizations (`tuple[str, ...]`): namespaces beside the user's own.
        role (`str`): of the token, `"write"` or `"read"`.
    """

    user: str
    organizations: tuple[str, ...] = ()
    role: str = "write"

    def owns(self, repo_id: str) -> bool:
        """Whether a repository is in one of the account's namespaces."""
        return repo_id.split("/")[0] in (self.user, *self.organizations)


@dataclass
class Repository:
    """A repository, which begins with one commit on `main`.

    Attributes:
        repo_type, repo_id (`str`): `"model"`, `"dataset"`, `"space"` or `"kernel"`, and `owner/name`.
        private (`bool`): only its owner sees it.
        gated (`str` or `bool`): `False`, or how people are admitted to its files.
        admitted (`set[str]`): users who accepted the conditions of a gated repository.
        sdk (`str`, *optional*): of a Space.
        refs (`dict[str, Commit]`): by the full name, such as `refs/heads/main`.
        commits (`dict[str, Commit]`): all, by their sha.
    """

    repo_type: str
    repo_id: str
    private: bool = False
    gated: str | bool = False
    admitted: set[str] = field(default_factory=set)
    sdk: str | None = None
    refs: dict[str, Commit] = field(default_factory=dict)
    commits: dict[str, Commit] = field(default_factory=dict)

    @property
    def path(self) -> str:
        """Where its pages are below the Hub's address."""
        return self.repo_id if self.repo_type == "model" else f"{self.repo_type}s/{self.repo_id}"

    def commit(
        self,
        files: dict[str, bytes],
        title: str,
        message: str = "",
        author: str = "",
        parent: Commit | None = None,
        ref: str = "refs/heads/main",
    ) -> Commit:
        """Put a snapshot at the end of a branch or pull request."""
        digest = hashlib.sha1(f"{parent.sha if parent else ''}\0{title}\0{message}\0{ref}\0".encode())
        for path, content in sorted(files.items()):
            digest.update(path.encode() + b"\0" + hashlib.sha1(content).digest())
        commit = Commit(digest.hexdigest(), files, title, message, author, parent, datetime.now(UTC))
        self.commits[commit.sha] = self.refs[ref] = commit
        return commit

    def at(self, revision: str) -> Commit:
        """The commit of a branch, a tag, a pull request or a full sha.

        Raises:
            HubError: there is no such revision.
        """
        for ref in (f"refs/heads/{revision}", f"refs/tags/{revision}", revision):
            if ref in self.refs:
                return self.refs[ref]
        if revision in self.commits:
            return self.commits[revision]
        raise HubError(404, "RevisionNotFound", f"Invalid rev id: {revision}")

    def branch(self, revision: str) -> str:
        """The full name of a branch or pull request, which can be committed to.

        Raises:
            HubError: it is neither.
        """
        for ref in (f"refs/heads/{revision}", revision):
            if ref in self.refs and not ref.startswith("refs/tags/"):
                return ref
        raise HubError(404, "RevisionNotFound", f"Invalid rev id: {revision}")

    def named(self, kind: str) -> dict[str, Commit]:
        """The refs of a kind, `heads`, `tags` or `pr`, by their short names."""
        head = f"refs/{kind}/"
        return {ref.removeprefix(head): commit for ref, commit in self.refs.items() if ref.startswith(head)}

    def create_ref(self, kind: str, name: str, commit: Commit) -> None:
        """Create a branch (`heads`) or a tag (`tags`).

        Raises:
            HubError: it exists, or the name is not one of git's.
        """
        if not re.fullmatch(r"[\w][\w./-]*", name) or ".." in name:
            raise HubError(400, "BadRequest", f"Invalid reference name: {name}")
        if f"refs/{kind}/{name}" in self.refs:
            raise HubError(409, "Conflict", f"Reference already exists: {name}")
        self.refs[f"refs/{kind}/{name}"] = commit

    def delete_ref(self, kind: str, name: str) -> None:
        """Delete a branch (`heads`) or a tag (`tags`).

        Raises:
            HubError: it does not exist, or is `main`.
        """
        if f"refs/{kind}/{name}" not in self.refs:
            raise HubError(404, "RevisionNotFound", f"Reference does not exist: {name}")
        if (kind, name) == ("heads", "main"):
            raise HubError(403, "Forbidden", "The branch main cannot be deleted")
        del self.refs[f"refs/{kind}/{name}"]

    def check_seen(self, account: Account | None) -> None:
        """Check that someone may know of the repository."""
        if self.private and not (account and account.owns(self.repo_id)):
            raise missing(account)

    def check_read(self, account: Account | None) -> None:
        """Check that someone may read the files."""
        self.check_seen(account)
        if not self.gated or (account and (account.user in self.admitted or account.owns(self.repo_id))):
            return
        why = "is restricted and you are not in the authorized list" if account else "is restricted: log in"
        raise HubError(403 if account else 401, "GatedRepo", f"Access to {self.repo_type} {self.repo_id} {why}.")

    def check_write(self, account: Account | None, what: str) -> None:
        """Check that someone may change the repository."""
        self.check_seen(account)
        if account is None:
            raise HubError(401, "Unauthorized", "Invalid username or password.")
        check_namespace(account, self.repo_id, what)


def missing(account: Account | None) -> HubError:
    """The answer for a repository that does not exist, or that someone may not know of."""
    return HubError(404 if account else 401, "RepoNotFound", "Repository not found")


def check_namespace(account: Account, repo_id: str, what: str) -> None:
    """Check that a token may write in the namespace of a repository."""
    if account.role != "write":
        raise HubError(403, "Forbidden", f"This token does not have the permission to {what}: it only reads")
    if not account.owns(repo_id):
        raise HubError(
            403, "Forbidden", f"You don't have the rights to {what} under the namespace {repo_id.split('/')[0]!r}"
        )


def is_large(path: str) -> bool:
    """Whether a file is an LFS object."""
    return path.endswith(LARGE_FILES)


def file_oid(path: str, content: bytes) -> str:
    """What a file is known by: the SHA-256 of a large one, git's hash of the others."""
    return hashlib.sha256(content).hexdigest() if is_large(path) else git_oid(content)


def git_oid(content: bytes) -> str:
    """Git's hash of a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
