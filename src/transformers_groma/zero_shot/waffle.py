"""Random texts in the place of descriptions, the control of WaffleCLIP: what an ensemble of any texts gains.

Half of them are made of random words, half of random characters. All labels share one random set, with their own name
before it, so that nothing in it can tell one label from another.
"""

import random
import string
from collections.abc import Collection

TEXT_COUNT = 30
# How many words, or groups of characters, a text has.
_WORDS_EACH = 2
_SHORTEST_GROUP, _LONGEST_GROUP = 4, 7
# Everyday words of many kinds. None of them names a thing that a photo could show.
_TEXT = """
about above advice afternoon again almost already always amount answer argue arrive attempt average balance because
become before begin belief between beyond borrow bravery careful century chance change choice clever combine
comment common compare courage custom danger decade decide defend degree delay depend despite detail differ doubt
during eager early earn effort eleven emotion enough equal error event exact except excuse expect explain extra
factor fair famous favour fifteen final follow forget formal former forward freedom friendly further general gentle
gradual habit handle happen hardly hesitate history honest hope however humour idea ignore imagine improve include
indeed inform instead intend invite issue journey justice kindness knowledge language later lesson level likely
limit listen logic loyal manage matter maybe measure memory mention method middle minute mistake moment mostly
motive mystery nearly neither nervous nobody normal notice number obey oblige occur offer opinion option ordinary
patience perhaps period permit phrase pleasant polite possible prefer pretend previous promise proper purpose quite
random rather ready reason recent refuse regret relax remark remember reply result reward rumour sadness season
seldom separate serious several silence similar simple sincere since slight sometimes subject success sudden
suggest suppose surprise system tendency theory thought tomorrow topic total toward tradition trust truth twice
unless until upset usual value variety version visit volume wander whether wisdom within wonder worry yesterday
"""
WORDS = tuple(_TEXT.split())


def waffle_texts(names: Collection[str], seed: int = 0) -> list[tuple[str, ...]]:
    """The random texts of each label.

    Args:
        names (`Collection[str]`): of the labels. Their words are left out of the random ones.
        seed (`int`): of the random set.

    Returns:
        `list[tuple[str, ...]]`: 30 texts for each name, the first 15 with words, the others with characters.

    Example:
    >>> cat, dog = waffle_texts(["cat", "dog"], seed=1)
    >>> len(cat), [text.replace("cat", "dog", 1) for text in cat] == list(dog)
    (30, True)
    """
    generator = random.Random(seed)
    taken = {word for name in names for word in name.casefold().split()}
    words = [word for word in WORDS if word not in taken]
    endings = [" ".join(generator.sample(words, _WORDS_EACH)) for _ in range(TEXT_COUNT // 2)]
    endings += [" ".join(_characters(generator) for _ in range(_WORDS_EACH)) for _ in range(TEXT_COUNT - len(endings))]
    return [tuple(f"a photo of a {name}, which has {ending}." for ending in endings) for name in names]


def _characters(generator: random.Random) -> str:
    """A group of random lower-case letters and digits."""
    length = generator.randint(_SHORTEST_GROUP, _LONGEST_GROUP)
    return "".join(generator.choices(string.ascii_lowercase + string.digits, k=length))


__all__ = ["TEXT_COUNT", "WORDS", "waffle_texts"]
