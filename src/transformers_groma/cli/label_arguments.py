"""Labels and their descriptions on the command line: `--labels a,b,c` or a file, `--descriptions`, `--templates`."""

import argparse
import os
from pathlib import Path

from .arguments import errors_of

LABELS_HELP = (
    "names with commas between them, or a file: a text file with one name in each line, a JSON list, or the class "
    "names of a JSON file of descriptions; names that hold a comma need a file"
)
_FILE_ENDINGS = (".txt", ".json", ".gz", ".csv", ".tsv", ".yaml", ".yml", ".jsonl")


def add_description_arguments(parser: "argparse._ActionsContainer") -> None:
    """Add the arguments that say which texts stand for the labels."""
    parser.add_argument(
        "--descriptions",
        metavar="FILE",
        type=Path,
        help="JSON with a list of sentences for each label, as CuPL and DCLIP publish them or `groma describe-labels` "
        "writes them (default: templates)",
    )
    parser.add_argument(
        "--templates",
        metavar="FILE",
        type=Path,
        help="JSON list of texts such as 'a photo of a {}.', for labels without descriptions (default: a short list)",
    )


def labels_of(text: str, argument: str = "--labels") -> list[str]:
    """The labels that an argument names.

    Args:
        text (`str`): names with commas between them, or the path of a file or image folder, see
            `label_lists.read_labels`.
        argument (`str`): how an error names it.

    Returns:
        `list[str]`: the labels, at least one and none twice.

    Raises:
        CommandError: there is no such file, it holds no labels, or a name is blank or repeated.

    Example:
    >>> labels_of("cat, dog,red ball")
    ['cat', 'dog', 'red ball']
    """
    from ..zero_shot.label_lists import check_labels, read_labels

    shown = text if len(text) <= 100 else f"{text[:100]}…"
    with errors_of(argument):
        if os.path.exists(text):
            return read_labels(text)
        # A name with such an ending or a single one with a slash is a path that was mistyped, and not a label.
        if text.casefold().endswith(_FILE_ENDINGS) or (os.sep in text and "," not in text):
            raise FileNotFoundError(
                f"{shown} does not exist: pass a file or names with commas between them. A name that looks like a "
                "path needs a file."
            )
        labels = [label.strip() for label in text.split(",")]
        if not all(labels):
            raise ValueError(f"{shown!r} has a blank name: write one name between two commas, as in cat,dog.")
        check_labels(labels, repr(shown))
        return labels


def descriptions_of(path: Path | None, argument: str = "--descriptions") -> dict[str, list[str]] | None:
    """The descriptions of a file, see `label_texts.read_descriptions`; `None` without a file.

    Raises:
        CommandError: it cannot be read, or holds something else.
    """
    if path is None:
        return None
    from ..zero_shot.label_texts import read_descriptions

    with errors_of(argument):
        return read_descriptions(path)


def templates_of(path: Path | None, argument: str = "--templates") -> tuple[str, ...] | None:
    """The templates of a file, see `label_texts.read_templates`; `None` without a file.

    Raises:
        CommandError: it cannot be read, or holds something else.
    """
    if path is None:
        return None
    from ..zero_shot.label_texts import read_templates

    with errors_of(argument):
        return read_templates(path)


__all__ = ["LABELS_HELP", "add_description_arguments", "descriptions_of", "labels_of", "templates_of"]
