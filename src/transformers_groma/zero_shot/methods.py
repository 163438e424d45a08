"""The named methods of zero-shot classification: which texts stand for a label, and what of an image is compared.

They are the rows of the paper's table. A method says what is done, and nothing of how: which texts it has is in
`label_texts.py`, how they are weighed in `scores.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

# Where the texts of a label come from.
TextSource = Literal["descriptions", "phrases", "template", "templates", "random"]


@dataclass(frozen=True)
class Method:
    """One way to classify images by texts.

    Args:
        name (`str`): how it is asked for.
        texts (`str`): where the texts of a label come from: `"descriptions"` are sentences of a file in CuPL's format
            as they stand, `"phrases"` those of a file in DCLIP's format behind the name ("cat, which has whiskers"),
            `"template"` one text with the name in it, `"templates"` several, `"random"` random words and characters
            behind the name.
        weighs_texts (`bool`): whether texts count by how close they are to "a photo of a NAME."; else all the same.
        pools_views (`bool`): whether squares or regions of the image are compared, weighed by how close they are to
            the whole; else the whole image alone.
        title (`str`): how tables name it.

    Example:
    >>> METHODS["cupl"].texts, METHODS["cupl"].needs_descriptions, METHODS["wca"].needs_descriptions
    ('descriptions', True, False)
    """

    name: str
    texts: TextSource
    weighs_texts: bool
    pools_views: bool
    title: str

    @property
    def uses_descriptions(self) -> bool:
        """Whether it reads a file of descriptions."""
        return self.texts in ("descriptions", "phrases")

    @property
    def needs_descriptions(self) -> bool:
        """Whether it cannot do without: "wca" takes templates where there are none."""
        return self.uses_descriptions and not self.weighs_texts

    @property
    def uses_templates(self) -> bool:
        """Whether it reads templates; "wca" does where it has no descriptions."""
        return self.texts in ("template", "templates") or (self.uses_descriptions and not self.needs_descriptions)


# In the order of the paper's table.
METHODS: Mapping[str, Method] = MappingProxyType(
    {
        method.name: method
        for method in (
            Method("template", "template", weighs_texts=False, pools_views=False, title="one template (CLIP)"),
            Method("ensemble", "templates", weighs_texts=False, pools_views=False, title="several templates (CLIP-E)"),
            Method("dclip", "phrases", weighs_texts=False, pools_views=False, title="phrases (CLIP-D)"),
            Method("waffle", "random", weighs_texts=False, pools_views=False, title="random texts (Waffle)"),
            Method("cupl", "descriptions", weighs_texts=False, pools_views=False, title="sentences (CuPL)"),
            Method("wca", "descriptions", weighs_texts=True, pools_views=True, title="weighted views and texts (WCA)"),
        )
    }
)


def method_of(method: "str | Method") -> Method:
    """The method of a name.

    Args:
        method (`str` or [`Method`]): its name, or the method itself.

    Returns:
        [`Method`]

    Raises:
        ValueError: there is no such method.

    Example:
    >>> method_of("waffle").texts
    'random'
    """
    if isinstance(method, Method):
        return method
    if not isinstance(method, str) or method not in METHODS:
        raise ValueError(f"`method` must be one of {', '.join(map(repr, METHODS))}, got {method!r}.")
    return METHODS[method]


__all__ = ["METHODS", "Method", "TextSource", "method_of"]
