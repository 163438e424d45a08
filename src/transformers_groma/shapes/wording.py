"""Words for objects: attributes in a fixed order, articles, sentences, and shorter forms."""

from itertools import product

from .scenes import Attributes


def words(attributes: Attributes, plural: bool = False) -> str:
    """The words for an object: size, texture ("solid" is never said), colour and shape.

    Args:
        attributes (`Attributes`): what is said; an object without a shape is an "object".
        plural (`bool`): of several.

    Returns:
        `str`: the words.

    Example:
    >>> from transformers_groma.shapes.scenes import Attributes
    >>> words(Attributes("small", "striped", "red", "cross"), plural=True)
    'small striped red crosses'
    """
    size, texture, color, shape = attributes
    noun = shape or "object"
    if plural:
        noun += "es" if noun.endswith("s") else "s"
    return " ".join(word for word in (size, None if texture == "solid" else texture, color, noun) if word)


def with_article(text: str) -> str:
    """Prepend "a" or "an".

    Args:
        text (`str`): words.

    Returns:
        `str`: the words.

    Example:
    >>> with_article("orange star")
    'an orange star'
    """
    return f"{'an' if text[0] in 'aeiou' else 'a'} {text}"


def sentence(text: str) -> str:
    """Turn words into a sentence: a capital at the start, a full stop at the end."""
    return f"{text[0].upper()}{text[1:]}."


def subsets(attributes: Attributes, with_shape: bool = True) -> list[Attributes]:
    """All shorter descriptions of an object, shortest first; "solid" is never said.

    Args:
        attributes (`Attributes`): all about it.
        with_shape (`bool`): whether the shape is always said. Otherwise it may be left out, but not everything.

    Returns:
        `list[Attributes]`

    Example:
    >>> from transformers_groma.shapes.scenes import Attributes
    >>> [words(wanted) for wanted in subsets(Attributes("small", "solid", "red", "circle"))]
    ['circle', 'red circle', 'small circle', 'small red circle']
    """
    size, texture, color, shape = attributes
    choices = product(
        dict.fromkeys((None, size)),
        dict.fromkeys((None, None if texture == "solid" else texture)),
        dict.fromkeys((None, color)),
        (shape,) if with_shape else (None, shape),
    )
    found = [Attributes(*choice) for choice in choices if any(choice)]
    return sorted(found, key=lambda wanted: sum(word is not None for word in wanted))


__all__ = ["sentence", "subsets", "with_article", "words"]
