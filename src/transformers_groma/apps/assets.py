"""The style sheets, scripts and templates of pages, as text."""

from importlib.resources import files


def asset(name: str) -> str:
    """The text of a file in `static/`.

    Args:
        name (`str`): of the file.

    Returns:
        `str`: its content.
    """
    return files(__package__).joinpath("static", name).read_text(encoding="utf-8")


__all__ = ["asset"]
