"""Names of repositories on the Hub, told apart from folders without asking the Hub."""

import os
import re

_OWNER_AND_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def is_hub_name(model: str | os.PathLike[str]) -> bool:
    """Whether what names a model is a name on the Hub, and not a folder.

    Args:
        model (`str` or path): folder or Hub name.

    Returns:
        `bool`

    Example:
    >>> is_hub_name("org/groma-7b"), is_hub_name("hub_configs/groma-tiny"), is_hub_name("/no/folder")
    (True, False, False)
    """
    name = os.fspath(model)
    if os.path.exists(name) or os.path.isabs(name) or name.startswith((".", "~")):
        return False
    return name.count("/") <= 1 and "\\" not in name


def has_owner_and_name(text: str) -> bool:
    """Whether a text is written as a full name on the Hub, `OWNER/NAME`; a folder may be written so, too.

    Args:
        text (`str`): what names a repository or a folder.

    Returns:
        `bool`

    Example:
    >>> has_owner_and_name("org/groma-7b"), has_owner_and_name("gpt2"), has_owner_and_name("a/b/c")
    (True, False, False)
    """
    return _OWNER_AND_NAME.fullmatch(text) is not None
