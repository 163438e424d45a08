"""What goes up of a metric: its script and its card, as a Space from which `evaluate.load` takes them."""

from pathlib import Path

from .contents import Contents, left_out_of
from .kinds import card_metadata

# The files of a metric beside its scripts.
FILES = ("README.md", "requirements.txt", "LICENSE")
# Stands in our cards for whoever publishes.
PLACEHOLDER = "your-name"


def metric_contents(folder: Path, repo_id: str) -> Contents:
    """Choose what goes up of a metric.

    Args:
        folder (`Path`): folder of the metric, with a script of its name, as in `metrics/`.
        repo_id (`str`): name of the Space, `ORG/NAME`. `evaluate` looks for a script of that name, so it must be the
            name of the folder.

    Returns:
        `Contents`: of a repository of the type `"space"`. In the card `your-name/NAME` becomes `repo_id`.

    Raises:
        ValueError: no script or no card, or the Space has another name.

    Example:
    >>> sorted(metric_contents(Path("metrics/rec_accuracy"), "org/rec_accuracy").files)
    ['README.md', 'rec_accuracy.py']
    """
    name = folder.resolve().name
    if not (folder / f"{name}.py").is_file():
        raise ValueError(f"{folder} has no {name}.py: the script of a metric has the name of its folder.")
    if repo_id.rpartition("/")[2] != name:
        raise ValueError(
            f"`evaluate.load({repo_id!r})` would look for another script than {name}.py. Push to "
            f"{repo_id.rpartition('/')[0]}/{name}, or rename the folder and its script."
        )
    if "sdk" not in card_metadata(folder):
        raise ValueError(
            f"{folder / 'README.md'} has no metadata of a Space. Begin it with `---`, `title: …`, `sdk: static`, "
            "`tags: [evaluate, metric]`, `---`."
        )
    files: dict[str, Path | bytes] = {path.name: path for path in sorted(folder.glob("*.py"))}
    files |= {one: folder / one for one in FILES if (folder / one).is_file()}
    card = (folder / "README.md").read_bytes()
    files["README.md"] = card.replace(f"{PLACEHOLDER}/{name}".encode(), repo_id.encode())
    return Contents("space", files, left_out=left_out_of(folder, files))


__all__ = ["metric_contents"]
