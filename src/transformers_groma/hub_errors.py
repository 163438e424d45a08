"""Errors of the Hub in one sentence that says what to do, for what is loaded and for what is pushed."""

import difflib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import HfApi, constants, get_token
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

LOG_IN = "log in with `hf auth login`, or set HF_TOKEN to a token of https://huggingface.co/settings/tokens"
_OTHER_TYPES = ("dataset", "space")


class HubError(OSError):
    """What went wrong on the way to the Hub; the message says what to do."""


def page_of(repo_id: str, repo_type: str = "model") -> str:
    """The address of a repository's page.

    Args:
        repo_id (`str`): `owner/name`.
        repo_type (`str`): `"model"`, `"dataset"`, `"space"` or `"kernel"`.

    Returns:
        `str`

    Example:
    >>> page_of("org/groma-7b"), page_of("org/scenes", "dataset")
    ('https://huggingface.co/org/groma-7b', 'https://huggingface.co/datasets/org/scenes')
    """
    return f"{constants.ENDPOINT}/{'' if repo_type == 'model' else f'{repo_type}s/'}{repo_id}"


@contextmanager
def loading_from_hub(repo_id: str, revision: str | None = None) -> Iterator[None]:
    """Turn what goes wrong while a model is loaded by its Hub name into one sentence.

    Args:
        repo_id (`str`): name of the model.
        revision (`str`, *optional*): branch, tag or commit that was asked for.

    Raises:
        HubError: the model is gated, private, missing or something else than a model; the revision or a file is
            missing; the Hub cannot be reached, and the model is not in the cache.
    """
    with _in_one_sentence(lambda cause: _loading_sentence(cause, repo_id, revision)):
        yield


@contextmanager
def pushing_to_hub(repo_id: str, repo_type: str = "model") -> Iterator[None]:
    """Turn what goes wrong while something is pushed into one sentence.

    Args:
        repo_id (`str`): name of the repository.
        repo_type (`str`): what kind of repository it is.

    Raises:
        HubError: no permission, a token that the Hub does not know, no connection, or another answer of the Hub.
    """
    try:
        with _in_one_sentence(lambda cause: _pushing_sentence(cause, repo_id, repo_type)):
            yield
    except RuntimeError as error:  # of the client, when a large file does not arrive
        cause = _hub_cause(error)
        if cause is None:
            raise
        raise HubError(_pushing_sentence(cause, repo_id, repo_type)) from error


@contextmanager
def _in_one_sentence(sentence: Callable[[BaseException], str]) -> Iterator[None]:
    """Turn what comes from the Hub into a `HubError`; other errors stay as they are."""
    try:
        yield
    except (OSError, ValueError, HTTPError) as error:
        if isinstance(error, HubError):
            raise
        cause = _hub_cause(error)
        if cause is None:
            raise
        raise HubError(sentence(cause)) from error


def _hub_cause(error: BaseException) -> BaseException | None:
    """The error of `huggingface_hub` that an error comes from; libraries in between reword it."""
    seen: BaseException | None = error
    found = None
    while seen is not None:
        is_of_hub = isinstance(seen, (EntryNotFoundError, HTTPError, HFValidationError, OfflineModeIsEnabled))
        # A file that is not in the cache is what is left of many reasons: the reason is what matters.
        if is_of_hub and (found is None or isinstance(found, LocalEntryNotFoundError)):
            found = seen
        seen = seen.__cause__ or seen.__context__
    return found


def _loading_sentence(error: BaseException, repo_id: str, revision: str | None) -> str:
    # That of an adapter's model, which has no revision of its own.
    if (of_error := getattr(error, "repo_id", None)) not in (None, repo_id):
        repo_id, revision = of_error, None
    page = page_of(repo_id)
    # A gated repository's error is one of a missing one too, so it comes first.
    if isinstance(error, GatedRepoError):
        if get_token() is None:
            return f"{repo_id} is gated: accept its conditions at {page}, and {LOG_IN}."
        return (
            f"{repo_id} is gated, and the account of your token has no access: ask for it at {page} with that "
            "account, and wait until it is granted."
        )
    if isinstance(error, RepositoryNotFoundError):
        return _missing_sentence(repo_id)
    if isinstance(error, RevisionNotFoundError):
        return f"{repo_id} has no revision {revision!r}: {_revisions(repo_id)}."
    if isinstance(error, HFValidationError):
        return f"{repo_id!r} is neither a folder here nor a name on the Hub, which is written owner/name."
    if isinstance(error, (LocalEntryNotFoundError, OfflineModeIsEnabled)) or _is_of_connection(error):
        at = "" if revision is None else f" at revision {revision!r}"
        if constants.HF_HUB_OFFLINE:
            option = "" if revision is None else f" --revision {revision}"
            return (
                f"{repo_id}{at} is not in the cache ({constants.HF_HUB_CACHE}), and HF_HUB_OFFLINE forbids to ask the "
                f"Hub: run `hf download {repo_id}{option}` where there is a connection, or unset HF_HUB_OFFLINE."
            )
        return (
            f"{constants.ENDPOINT} cannot be reached, and {repo_id}{at} is not complete in the cache "
            f"({constants.HF_HUB_CACHE}): check the connection, proxy and HF_ENDPOINT, or pass the folder of a model."
        )
    if isinstance(error, EntryNotFoundError):
        return f"{repo_id} lacks a file of a model ({_reason(error)}): look at {page}/tree/{revision or 'main'}."
    return _answer_sentence(error, f"{repo_id} could not be loaded")


def _missing_sentence(repo_id: str) -> str:
    """Why a model is missing: a slip near a local folder, another type of repository, or nothing there."""
    near = nearest_folder(repo_id)
    if near is not None:
        return f"there is no model {repo_id!r}, on the Hub or here; did you mean the folder {near!r}?"
    for repo_type in _OTHER_TYPES:
        if _exists(repo_id, repo_type):
            return (
                f"{repo_id} is a {repo_type} ({page_of(repo_id, repo_type)}), not a model: pass the name of a model."
            )
    sentence = f"there is no model {repo_id!r} on the Hub, or it is private: check the spelling at {page_of(repo_id)}"
    if get_token() is None:
        return f"{sentence}; for a private one {LOG_IN}."
    return f"{sentence}, and that the account of your token may see it (`hf auth whoami`)."


def nearest_folder(path: str) -> str | None:
    """The folder beside a path that does not exist whose name is nearly the same.

    Args:
        path (`str`): what someone wrote for a folder.

    Returns:
        `str`, *optional*

    Example:
    >>> nearest_folder("hub_configs/gorma-tiny")
    'hub_configs/groma-tiny'
    """
    folder = Path(path).parent
    try:
        names = [entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
    except OSError:
        return None
    near = difflib.get_close_matches(Path(path).name, names, n=1, cutoff=0.7)
    return str(folder / near[0]) if near else None


def _exists(repo_id: str, repo_type: str) -> bool:
    try:
        return HfApi().repo_exists(repo_id, repo_type=repo_type)
    except (OSError, ValueError, HTTPError):
        return False  # nothing is known, so nothing is said


def _revisions(repo_id: str) -> str:
    """The revisions that a model has, in words."""
    try:
        refs = HfApi().list_repo_refs(repo_id)
    except (OSError, ValueError, HTTPError):
        return f"look at {page_of(repo_id)} for its branches and tags"
    names = [ref.name for ref in (*refs.branches, *refs.tags)]
    shown = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
    return f"it has {shown}, and the full hashes of its commits"


def _pushing_sentence(error: BaseException, repo_id: str, repo_type: str) -> str:
    owner = repo_id.split("/")[0]
    if isinstance(error, HFValidationError):
        return f"{repo_id!r} is not a name on the Hub: write owner/name with letters, digits, `-`, `_` and `.`."
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set, so nothing can be pushed: unset it."
    if _is_of_connection(error):
        return (
            f"{constants.ENDPOINT} cannot be reached ({_reason(error)}): check the connection, proxy and HF_ENDPOINT, "
            "then push again; what has arrived is not sent twice."
        )
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if status == 412:
        return (
            f"somebody else pushed to the {repo_type} {repo_id} at the same time, and nothing was changed by this "
            f"push: look at {page_of(repo_id, repo_type)}, then push again; what has arrived is not sent "
            "twice."
        )
    is_of_token = "Invalid user token" in str(error)
    if not is_of_token and (isinstance(error, RepositoryNotFoundError) or status in (401, 403)):
        return (
            f"the account of your token may not write to {owner!r} on the Hub ({_reason(error)}): use a token with "
            f"write access to it (`hf auth login`), or push under a name of yours (`hf auth whoami`)."
        )
    return _answer_sentence(error, f"the {repo_type} {repo_id} could not be pushed")


def _answer_sentence(error: BaseException, what: str) -> str:
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if status == 401 or "Invalid user token" in str(error):
        return f"{what}: the Hub does not know your token, {LOG_IN}."
    remedy = "try again later" if status == 429 or (status or 0) >= 500 else f"see {constants.ENDPOINT}"
    return f"{what} ({_reason(error)}): {remedy}."


def _is_of_connection(error: BaseException) -> bool:
    """Whether no answer came at all."""
    return isinstance(error, HTTPError) and not isinstance(error, HfHubHTTPError)


def _reason(error: BaseException) -> str:
    """What the Hub said, in one line."""
    said = getattr(error, "server_message", None) or str(error)
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__).rstrip(".:")


__all__ = ["LOG_IN", "HubError", "loading_from_hub", "nearest_folder", "page_of", "pushing_to_hub"]
