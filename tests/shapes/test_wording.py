"""Words for objects."""

from transformers_groma.shapes.scenes import Attributes
from transformers_groma.shapes.wording import subsets, with_article, words


def test_words():
    item = Attributes("large", "solid", "orange", "cross")
    assert words(item) == "large orange cross"
    assert words(item._replace(texture="dotted"), plural=True) == "large dotted orange crosses"
    assert words(Attributes(color="red"), plural=True) == "red objects"
    assert [with_article(text) for text in ("orange star", "object", "red ring")] == [
        "an orange star",
        "an object",
        "a red ring",
    ]
    assert len(subsets(item)) == 4 and len(subsets(item, with_shape=False)) == 7
    assert len(subsets(item._replace(texture="striped"))) == 8
