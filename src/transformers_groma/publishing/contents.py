"""What goes up to the Hub: the files of a repository, and which files there they replace."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

RepoType = Literal["model", "dataset", "space", "kernel"]


@dataclass(frozen=True)
class Contents:
    """The files of a push. They are chosen one by one, so that nothing else in a folder goes up.

    Attributes:
        repo_type (`str`): what kind of repository the Hub makes: `"model"`, `"dataset"`, `"space"` or `"kernel"`.
        files (`Mapping[str, Path or bytes]`): by its path in the repository each file, on this machine or as bytes.
        replaces (`tuple[str, ...]`): patterns of paths. Files of the repository that fit one of them and are not
            among `files` are deleted with the push: shards of a dataset that now has fewer of them, for example.
        branch (`str`, *optional*): a branch that gets the same files beside `main`, for tools that look there.
        left_out (`tuple[str, ...]`): names in the folder that stay on this machine, to tell the user.
        changes (`tuple[str, ...]`): what differs from the files in the folder, to tell the user.
    """

    repo_type: RepoType
    files: Mapping[str, Path | bytes]
    replaces: tuple[str, ...] = ()
    branch: str | None = None
    left_out: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()


def left_out_of(folder: Path, files: Mapping[str, Path | bytes]) -> tuple[str, ...]:
    """The names directly in a folder of which nothing goes up.

    Args:
        folder (`Path`): the folder that is pushed.
        files (`Mapping`): of its [`Contents`].

    Returns:
        `tuple[str, ...]`: sorted; hidden names are among them, as keys and histories are hidden.

    Example:
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> for name in ("README.md", ".env"):
    ...     _ = (folder / name).write_text("")
    >>> left_out_of(folder, {"README.md": folder / "README.md"})
    ('.env',)
    """
    taken = {
        source.relative_to(folder).parts[0]
        for source in files.values()
        if isinstance(source, Path) and source.is_relative_to(folder)
    }
    # What is written anew under the name of a local file, such as a card, replaces that file.
    taken |= {path.split("/")[0] for path, source in files.items() if isinstance(source, bytes)}
    return tuple(sorted(path.name for path in folder.iterdir() if path.name not in taken))


__all__ = ["Contents", "RepoType", "left_out_of"]
