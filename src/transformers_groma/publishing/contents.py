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
        needs (`tuple[str, ...]`): names of models on the Hub without which it is of no use: that of an adapter, of an
            app.
    """

    repo_type: RepoType
    files: Mapping[str, Path | bytes]
    replaces: tuple[str, ...] = ()
    branch: str | None = None
    left_out: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()


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


def check_links(contents: Contents, folder: Path) -> None:
    """Check that no file of a push is a link that leads out of the folder, or to one that stays on this machine.

    Args:
        contents (`Contents`): what would go up.
        folder (`Path`): the folder that is pushed.

    Raises:
        ValueError: one is.

    Example:
    >>> check_links(Contents("model", {"README.md": b"# Mine"}), Path("."))
    """
    root = folder.resolve()
    # In the Hub's cache, the files of a snapshot are links to the blobs of the same repository.
    roots = (root, root.parent.parent / "blobs") if root.parent.name == "snapshots" else (root,)
    for name, source in contents.files.items():
        if isinstance(source, bytes):
            continue
        target = source.resolve()
        if not any(target.is_relative_to(each) for each in roots):
            raise ValueError(f"{name} is a link to {target}, which is outside of {folder}. Put the file itself there.")
        # A known name must not let out what is left out: keys in hidden files, optimizer states.
        is_link = target.is_relative_to(root) and target != root / name
        if is_link and target.relative_to(root).as_posix() not in contents.files:
            raise ValueError(f"{name} is a link to {target}, which is not pushed. Put the file itself there.")


__all__ = ["Contents", "RepoType", "check_links", "left_out_of"]
