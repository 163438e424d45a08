"""Pushes contents to the Hub: checks the name, the token and what is there, then uploads and tags."""

import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import RepositoryNotFoundError
from huggingface_hub.utils import disable_progress_bars, enable_progress_bars

from ..hub_errors import LOG_IN, HubError, loading_from_hub, page_of, pushing_to_hub
from .contents import Contents

_REPO_TYPES = ("model", "dataset", "space", "kernel")
_NAME = re.compile(r"[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9])?", re.ASCII)
_BRANCH = re.compile(r"[A-Za-z0-9][\w./-]*", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Destination:
    """Where a push goes.

    Attributes:
        repo_id (`str`): `owner/name`. The repository is created if it does not exist.
        private (`bool`): whether only its owner sees a new repository.
        branch (`str`, *optional*): `main` by default; created from `main` if it does not exist.
        tag (`str`, *optional*): a new tag for what was pushed.
        create_pr (`bool`): open a pull request instead of writing to the branch.
        message (`str`, *optional*): of the commit.
        space_sdk (`str`, *optional*): of a new Space.

    Raises:
        ValueError: a name, branch or tag that the Hub does not take, or options that exclude each other.
    """

    repo_id: str
    private: bool = False
    branch: str | None = None
    tag: str | None = None
    create_pr: bool = False
    message: str | None = None
    space_sdk: str | None = None

    def __post_init__(self) -> None:
        owner, slash, name = self.repo_id.partition("/")
        if not slash or not all(
            _NAME.fullmatch(part) and not {"--", ".."} & {*_pairs(part)} for part in (owner, name)
        ):
            raise ValueError(
                f"{self.repo_id!r} is not a name on the Hub: write owner/name, each with letters, digits, and `-`, "
                "`_` or `.` inside, as in your-name/groma-photos."
            )
        if name.endswith((".git", ".ipynb")):
            raise ValueError(f"{self.repo_id!r} ends in {name[name.rindex('.') :]!r}, which the Hub does not take.")
        if len(self.repo_id) > 96:
            raise ValueError(f"{self.repo_id!r} has {len(self.repo_id)} characters, and the Hub takes at most 96.")
        for option, value in (("--branch", self.branch), ("--tag", self.tag)):
            if value is not None and not (_BRANCH.fullmatch(value) and ".." not in value and value[-1] not in "/."):
                raise ValueError(
                    f"{option} {value!r} is not a name for git: use letters, digits, `-`, `_`, `.`, `/`, as in v1.0."
                )
            if value is not None and _COMMIT.fullmatch(value):
                raise ValueError(f"{option} {value!r} is the hash of a commit, which nothing can be pushed to.")
        if self.tag is not None and self.tag == (self.branch or "main"):
            raise ValueError(f"--tag {self.tag!r} is the name of the branch as well: pass another one.")
        if self.create_pr and (self.branch not in (None, "main") or self.tag is not None):
            raise ValueError(
                "--create-pr opens a pull request to main: leave out --branch and --tag, and tag after it is merged."
            )


def _pairs(text: str) -> list[str]:
    return [text[index : index + 2] for index in range(len(text) - 1)]


@dataclass(frozen=True)
class Pushed:
    """What a push has done.

    Attributes:
        url (`str`): where to see it: the repository, its branch, or the pull request.
        commit (`str`): hash of the commit.
        revision (`str`, *optional*): what to load it by, if not `main`: the tag, branch or pull request.
    """

    url: str
    commit: str
    revision: str | None


def check_destination(contents: Contents, to: Destination) -> list[str]:
    """Check the token and the repository before anything is sent.

    Args:
        contents (`Contents`): what would go up.
        to (`Destination`): where to.

    Returns:
        `list[str]`: what the user may want to know: that another type of repository has this name.

    Raises:
        HubError: no token, one that the Hub does not know or that only reads, a namespace of others; a model that it
            needs is not on the Hub; a tag that exists; a public repository where a private one is asked for; no
            connection.
    """
    if get_token() is None:
        raise HubError(f"nothing can be pushed without a token: {LOG_IN}.")
    api, repo_type = HfApi(), contents.repo_type
    for model in contents.needs:
        with loading_from_hub(model):
            api.model_info(model)
    with pushing_to_hub(to.repo_id, repo_type):
        account = api.whoami()
        _check_account(account, to)
        notes = [
            f"{to.repo_id} is a {other} on the Hub too; the {repo_type} gets a page of its own"
            for other in _REPO_TYPES[:3]
            if other != repo_type and api.repo_exists(to.repo_id, repo_type=other)
        ]
        try:
            info = api.repo_info(to.repo_id, repo_type=repo_type)
        except RepositoryNotFoundError:
            if to.create_pr:
                raise HubError(
                    f"there is no {repo_type} {to.repo_id!r} to open a pull request in: check the name, or leave out "
                    "--create-pr."
                ) from None
            return notes
        if to.private and not info.private:
            raise HubError(
                f"{to.repo_id} exists and is public: make it private in {page_of(to.repo_id, repo_type)}/settings, or "
                "leave out --private."
            )
        refs = api.list_repo_refs(to.repo_id, repo_type=repo_type)
        tags, branches = ({ref.name for ref in kind} for kind in (refs.tags, refs.branches))
        if to.tag in tags:
            raise HubError(f"{to.repo_id} has a tag {to.tag!r} already: pass another one, or delete that one first.")
        if to.tag in branches:
            raise HubError(f"{to.repo_id} has a branch {to.tag!r}: pass another name for the tag.")
        if to.branch in tags:
            raise HubError(
                f"{to.branch!r} is a tag of {to.repo_id}, and nothing can be added to a tag: pass a branch."
            )
    return notes


def _check_account(account: dict, to: Destination) -> None:
    """Check that an account may write where it should."""
    token = account.get("auth", {}).get("accessToken", {})
    if token.get("role") == "read":
        raise HubError(
            f"the token {token.get('displayName', '')!r} of {account['name']} only reads: make one that writes at "
            "https://huggingface.co/settings/tokens, then `hf auth login`."
        )
    owner = to.repo_id.split("/")[0]
    own = [account["name"], *(org["name"] for org in account.get("orgs", ()))]
    if owner.lower() not in map(str.lower, own) and not to.create_pr:
        raise HubError(
            f"{account['name']}, the account of your token, may not push to {owner!r}: push to "
            f"{' or '.join(f'{name}/…' for name in own[:4])}, or open a pull request (--create-pr)."
        )


def upload(contents: Contents, to: Destination, progress: bool = True) -> Pushed:
    """Push contents. Files that are there already are not sent again, so an interrupted push resumes.

    Args:
        contents (`Contents`): what goes up.
        to (`Destination`): where to.
        progress (`bool`): whether to show progress on stderr.

    Returns:
        `Pushed`

    Raises:
        HubError: the Hub refuses, or cannot be reached.
    """
    api, kind, repo_id = HfApi(), contents.repo_type, to.repo_id
    branch = None if to.branch == "main" else to.branch
    if not progress:
        disable_progress_bars()
    try:
        with pushing_to_hub(repo_id, kind), tempfile.TemporaryDirectory(prefix="groma-push-") as folder:
            if not to.create_pr:
                sdk = {"space_sdk": to.space_sdk} if kind == "space" else {}
                private = True if to.private else None
                api.create_repo(repo_id, repo_type=kind, private=private, exist_ok=True, **sdk)
            _lay_out(contents, Path(folder))
            targets = [branch] if to.create_pr or contents.branch is None else [branch, contents.branch]
            commits = []
            for target in targets:
                if target is not None:
                    api.create_branch(repo_id, branch=target, repo_type=kind, exist_ok=True)
                # What is replaced is looked up now: another push in between would leave the weights of both.
                seen = api.repo_info(repo_id, repo_type=kind, revision=target).sha
                commits.append(
                    api.upload_folder(
                        repo_id=repo_id,
                        folder_path=folder,
                        repo_type=kind,
                        revision=target,
                        commit_message=to.message or "Push with groma",
                        create_pr=to.create_pr,
                        parent_commit=seen,
                        delete_patterns=list(contents.replaces) or None,
                    )
                )
            commit = commits[0]
            if to.tag is not None:
                api.create_tag(repo_id, tag=to.tag, revision=commit.oid, repo_type=kind)
    finally:
        if not progress:
            enable_progress_bars()
    revision = to.tag or branch or commit.pr_revision
    url = page_of(repo_id, kind) + (f"/tree/{to.tag or branch}" if to.tag or branch else "")
    return Pushed(commit.pr_url or url, commit.oid, revision)


def _lay_out(contents: Contents, folder: Path) -> None:
    """Lay the files out as they are in the repository; those of this machine are links, however large they are."""
    for name, source in contents.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(source, bytes):
            path.write_bytes(source)
        else:
            os.symlink(source.resolve(), path)


__all__ = ["Destination", "Pushed", "check_destination", "upload"]
