"""Noun phrases of English captions, and whether two phrases are about the same thing: rules and short word lists."""

import re
from collections.abc import Iterator, Sequence


def _listed(words: str) -> frozenset[str]:
    return frozenset(words.split())


# Words that end a noun phrase, or stand between two. A closed list, because a tagger would be a model more to install;
# captions are simple sentences, and what is missed is a phrase without a box.
_BREAKS = _listed(
    """about above across after against along amid among and around as at because before behind below beneath beside
    between beyond but by close down except for from front here in inside into is are was were be been being
    near next not of high low off on onto or out outside over past so such than that then there through to
    toward towards under up upon via what where which while who with within without has have had does do can
    could may might will would it its he she they them this these those their his her him I we you there's it's
    some each both also very sits sit stands stand runs run walks walk lies lie holds hold looks look shows show
    plays play rides ride eats eat wears wear flies fly appears appear features feature contains contain seems
    seem includes include surrounds surrounded filled covered made parked seated located visible seen nearby
    background foreground midground left right top bottom middle center together several lined line lines set"""
)
# Of words in -ing: those that are nouns, or the beginning of one. All others say what something does.
_ING_NOUNS = _listed(
    """building ceiling painting seating clothing wedding evening morning railing string ring king wing spring swing
    thing parking swimming dining living shopping sibling lightning pudding awning bedding landing crossing drawing"""
)
_DETERMINERS = _listed("a an the another one two three four five six many few no")
# What these say about an object is not an object that could have a box.
_NOT_THINGS = _listed(
    """image picture photo scene view side sides part parts lot group front number variety way kind type"""
)
_PEOPLE = _listed(
    """person people man men woman women boy boys girl girls child children kid kids baby babies lady ladies gentleman
    guy pedestrian adult human somebody someone individual"""
)
_IRREGULAR = {
    "people": "person", "men": "man", "women": "woman", "children": "child", "feet": "foot", "teeth": "tooth",
    "mice": "mouse", "geese": "goose", "leaves": "leaf", "knives": "knife", "wolves": "wolf", "shelves": "shelf",
    "loaves": "loaf", "wives": "wife", "scarves": "scarf",
}  # fmt: skip
_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_STOPWORDS = _BREAKS | _DETERMINERS

# GranD's least share of words that phrases about the same thing have in common.
SIMILARITY = 0.75


def listed_items(answer: str) -> list[str]:
    """Read a list, however a model writes it: an item a line or separated by commas, with numbers or bullets.

    Args:
        answer (`str`): of a model.

    Returns:
        `list[str]`: in lower case, each once.

    Example:
    >>> listed_items("1. Two dogs\\n2) a ball; a tree.\\n- two dogs")
    ['two dogs', 'a ball', 'a tree']
    """
    items = (re.sub(r"^\W*(\d+[.)])?\W*|\W+$", "", item).lower() for item in re.split(r"[,;\n]", answer))
    return list(dict.fromkeys(item for item in items if item))


def noun_phrases(text: str) -> list[tuple[int, int]]:
    """Find the noun phrases of a caption.

    Args:
        text (`str`): one or more English sentences.

    Returns:
        `list[tuple[int, int]]`: spans in characters, in the order of the text.

    Example:
    >>> text = "A small dog sits on the green grass near two red bicycles."
    >>> [text[start:end] for start, end in noun_phrases(text)]
    ['A small dog', 'the green grass', 'two red bicycles']
    """
    spans: list[tuple[int, int]] = []
    run: list[re.Match[str]] = []

    def end_run() -> None:
        content = [match for match in run if _is_content(match)]
        if content and singular(content[-1][0].lower()) not in _NOT_THINGS and not content[-1][0].isdecimal():
            spans.append((run[0].start(), content[-1].end()))
        run.clear()

    for match in _WORD.finditer(text):
        word = match[0].lower()
        between = text[run[-1].end() : match.start()] if run else ""
        # Punctuation ends a phrase, and so does a determiner: "the dog the cat".
        if run and (between.strip() or word in _DETERMINERS):
            end_run()
        # "a dog chasing a ball", "is playing tennis"; but "a flying kite".
        is_participle = word.endswith("ing") and word not in _ING_NOUNS
        if word in _BREAKS or (is_participle and any(map(_is_content, run))):
            end_run()
        elif is_participle and not run:
            continue
        else:
            run.append(match)
    end_run()
    return spans


def content_words(text: str) -> list[str]:
    """The words of a phrase that carry meaning, in the singular.

    Example:
    >>> content_words("two of the Red_Chairs")
    ['red', 'chair']
    """
    words = (match[0].lower() for match in _WORD.finditer(plain_label(text)))
    return [singular(word) for word in words if word not in _STOPWORDS]


def head_noun(phrase: str) -> str:
    """The noun that a phrase is about, in the singular; empty where there is none.

    Example:
    >>> head_noun("a wooden table with red chairs")
    'table'
    """
    spans = noun_phrases(phrase)
    words = content_words(phrase[slice(*spans[0])]) if spans else content_words(phrase)
    return words[-1] if words else ""


def is_plural(phrase: str) -> bool:
    """Whether a phrase is about several things.

    Example:
    >>> is_plural("colorful buildings"), is_plural("a glass"), is_plural("two sheep")
    (True, False, True)
    """
    words = [match[0].lower() for match in _WORD.finditer(phrase)]
    if words and words[0] in _DETERMINERS - {"a", "an", "the", "another", "one", "no"}:
        return True
    spans = noun_phrases(phrase)
    last = phrase[slice(*spans[0])].split()[-1].lower() if spans else ""
    return singular(last) != last


def singular(word: str) -> str:
    """The singular of a noun in lower case.

    Example:
    >>> [singular(word) for word in ("buses", "cherries", "glass", "chairs", "women", "bus", "dishes")]
    ['bus', 'cherry', 'glass', 'chair', 'woman', 'bus', 'dish']
    """
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if len(word) <= 3 or not word.endswith("s") or word.endswith(("ss", "us", "is")):
        return word
    if word.endswith("ies") and len(word) > 4:
        return f"{word[:-3]}y"
    if word.endswith(("ses", "xes", "zes", "ches", "shes")):
        return word[:-1] if word.endswith(("oses", "uses", "ases")) and word not in ("buses", "gases") else word[:-2]
    return word[:-1]


def plain_label(label: str) -> str:
    """A detector's label in words, without the explanation that LVIS adds.

    Example:
    >>> plain_label("sandal_(type_of_shoe)")
    'sandal'
    """
    return re.sub(r"\(.*?\)", " ", label.replace("_", " ")).strip()


def similarity(phrase: str, other: str) -> float:
    """How much two phrases say the same: 1 if one contains the other, else the share of the shorter one's words.

    Example:
    >>> similarity("the red chair", "a chair that is red"), similarity("a dog", "a cat")
    (1.0, 0.0)
    """
    first, second = content_words(phrase), content_words(other)
    if not first or not second:
        return 0.0
    short, long = sorted((first, second), key=len)
    if any(long[start : start + len(short)] == short for start in range(len(long) - len(short) + 1)):
        return 1.0
    return sum(word in long for word in short) / len(short)


def names_label(noun: str, labels: Sequence[str]) -> bool:
    """Whether a noun is one of the labels of an object; all words for people fit a person.

    Args:
        noun (`str`): in the singular, see [`head_noun`].
        labels (`Sequence[str]`): as detectors write them.

    Example:
    >>> names_label("glass", ["wine_glass", "cup"]), names_label("woman", ["person"]), names_label("dog", ["cat"])
    (True, True, False)
    """
    heads = {words[-1] for label in labels if (words := content_words(label))}
    return noun in heads or (noun in _PEOPLE and "person" in {_person(head) for head in heads})


def occurrences(phrase: str, text: str) -> Iterator[tuple[int, int]]:
    """Where a phrase stands in a text as whole words, whatever the case.

    Example:
    >>> list(occurrences("a hot dog", "A hot  dog and a hot dogfight"))
    [(0, 10)]
    """
    words = [re.escape(word) for word in phrase.split()]
    if words:
        pattern = r"(?<!\w)" + r"\s+".join(words) + r"(?!\w)"
        yield from (match.span() for match in re.finditer(pattern, text, re.IGNORECASE))


def _is_content(match: re.Match[str]) -> bool:
    return match[0].lower() not in _DETERMINERS


def _person(noun: str) -> str:
    return "person" if noun in _PEOPLE else noun


__all__ = [
    "SIMILARITY",
    "content_words",
    "head_noun",
    "is_plural",
    "listed_items",
    "names_label",
    "noun_phrases",
    "occurrences",
    "plain_label",
    "similarity",
    "singular",
]
