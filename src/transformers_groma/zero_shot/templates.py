"""Templates of a label's texts, filled with its name; and names joined with phrases, as DCLIP does."""

from collections.abc import Sequence

# The text that stands for a label where there is one only, and the anchor that descriptions are weighed by.
DEFAULT_TEMPLATE = "a photo of a {}."
# The prompt ensemble where the caller brings none. Lists made for one dataset do better there.
GENERIC_TEMPLATES = (
    DEFAULT_TEMPLATE,
    "a photo that shows the {}.",
    "a close view of a {}.",
    "a {} seen from some distance.",
    "a bright and sharp photo of a {}.",
    "a dark or blurred photo of a {}.",
    "a {} among other things.",
    "a drawing of a {}.",
)
PLACE = "{}"
# How a phrase begins that needs no "has" before it. The rule looks at letters, not words, as the released one does.
_IS = ("a", "used")
_AS_IT_STANDS = ("has", "often", "typically", "may", "can")


def display_name(label: str) -> str:
    """The name of a label as texts and files of descriptions have it: underscores are spaces, several are one.

    Args:
        label (`str`): a label, or the name of a class or folder.

    Returns:
        `str`: its name.

    Example:
    >>> display_name("wooden_box")
    'wooden box'
    """
    return " ".join(label.replace("_", " ").split())


def fill_template(template: str, name: str) -> str:
    """Put a name into a template, wherever `{}` stands; other braces stay.

    Args:
        template (`str`): a text with `{}`.
        name (`str`): the name.

    Returns:
        `str`: the text.

    Example:
    >>> fill_template("a photo of a {}.", "red ball")
    'a photo of a red ball.'
    """
    return template.replace(PLACE, name)


def check_templates(templates: Sequence[str], argument: str = "`templates`") -> tuple[str, ...]:
    """Check that templates are texts with a place for the name.

    Args:
        templates (`Sequence[str]`): at least one.
        argument (`str`): how an error names them.

    Returns:
        `tuple[str, ...]`: the same.

    Raises:
        ValueError: there are none, one is not a text, or one has no `{}`.

    Example:
    >>> check_templates(["a photo of {name}."])
    Traceback (most recent call last):
    ValueError: `templates`: 'a photo of {name}.' has no {} for the name. Write it as in 'a photo of a {}.'.
    """
    if isinstance(templates, str) or not isinstance(templates, Sequence):
        raise ValueError(f"{argument} must be a list of texts such as [{DEFAULT_TEMPLATE!r}], got {templates!r:.100}.")
    if not templates:
        raise ValueError(
            f"{argument} must have at least one template, got none. Write one as in {DEFAULT_TEMPLATE!r}."
        )
    for template in templates:
        if not isinstance(template, str):
            raise ValueError(f"{argument} must be texts, got {template!r:.100}. Write one as in {DEFAULT_TEMPLATE!r}.")
        if PLACE not in template:
            raise ValueError(
                f"{argument}: {template!r:.100} has no {PLACE} for the name. Write it as in {DEFAULT_TEMPLATE!r}."
            )
    return tuple(templates)


def dclip_text(name: str, phrase: str) -> str:
    """Join a name and a phrase as DCLIP does.

    Args:
        name (`str`): of a label.
        phrase (`str`): what it has, is or does.

    Returns:
        `str`: the text.

    Example:
    >>> [dclip_text("ball", phrase) for phrase in ("a toy", "used in games", "often red", "no corners")]
    ['ball, which is a toy', 'ball, which is used in games', 'ball, which often red', 'ball, which has no corners']
    """
    if phrase.startswith(_IS):
        return f"{name}, which is {phrase}"
    if phrase.startswith(_AS_IT_STANDS):
        return f"{name}, which {phrase}"
    return f"{name}, which has {phrase}"


__all__ = [
    "DEFAULT_TEMPLATE",
    "GENERIC_TEMPLATES",
    "PLACE",
    "check_templates",
    "dclip_text",
    "display_name",
    "fill_template",
]
