"""Writes one grounded answer about ten objects in the grammar of Groma, Qwen2.5-VL, Kosmos-2 and Florence-2."""

import math
import re

from tokenizers import Regex, pre_tokenizers
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

# Tokens that a word takes, the same in every grammar: what large vocabularies need for English on average.
TOKENS_PER_WORD = 1.3
# Phrases of an image of 448x448 pixels, and their boxes as absolute pixels `xyxy`.
OBJECTS = (
    ("a woman in a red coat", (31, 102, 148, 431)),
    ("a brown dog", (160, 288, 263, 417)),
    ("a wooden bench", (212, 251, 398, 379)),
    ("a blue bicycle", (301, 190, 441, 352)),
    ("a street lamp", (270, 7, 301, 265)),
    ("two pigeons", (118, 391, 187, 440)),
    ("a paper cup", (345, 236, 362, 262)),
    ("a parked car", (9, 171, 93, 245)),
    ("a tree", (350, 3, 447, 212)),
    ("a brick wall", (88, 60, 272, 196)),
)
# What stands before each phrase, and at the end, where an answer is a sentence.
BETWEEN = ("", " walks", " past", " and", " beside", " while", " sit near", " behind", " under", " in front of", ".")
IMAGE_SIZE = 448
_TAG = re.compile(r"<[^<>]+>")


def groma_answer() -> str:
    """A sentence whose phrases are followed by region tokens: a box is one token of the list of regions."""
    parts = [
        f"{before} <p>{phrase}</p><roi><r{index}></roi>"
        for index, (before, (phrase, _)) in enumerate(zip(BETWEEN, OBJECTS, strict=False))
    ]
    return "".join(parts).strip() + BETWEEN[-1]


def kosmos2_answer() -> str:
    """The same sentence with two corners of a grid of 32x32 patches after each phrase."""
    parts = []
    for before, (phrase, box) in zip(BETWEEN, OBJECTS, strict=False):
        left, top, right, bottom = (min(31, value * 32 // IMAGE_SIZE) for value in box)
        corners = f"<patch_index_{top * 32 + left:04d}><patch_index_{bottom * 32 + right:04d}>"
        parts.append(f"{before} <phrase>{phrase}</phrase><object>{corners}</object>")
    return "".join(parts).strip() + BETWEEN[-1]


def florence2_answer() -> str:
    """Phrases, each with four of 1000 location tokens: what `<DENSE_REGION_CAPTION>` writes, not a sentence."""
    return "".join(
        phrase + "".join(f"<loc_{min(999, value * 1000 // IMAGE_SIZE)}>" for value in box) for phrase, box in OBJECTS
    )


def qwen_answer() -> str:
    """A list in JSON with absolute pixels, as the cookbook of Qwen2.5-VL shows it, which is not a sentence."""
    lines = [f'\t{{"bbox_2d": {list(box)}, "label": "{phrase}"}}' for phrase, box in OBJECTS]
    return "```json\n[\n" + ",\n".join(lines) + "\n]\n```"


def tokens_of_tags(answer: str) -> int:
    """Tokens of a grammar whose tags are one token each: tags, words at the common rate, punctuation, and the end."""
    plain = _TAG.sub(" ", answer)
    words, marks = re.findall(r"\w+", plain), re.findall(r"[^\w\s]", plain)
    return len(_TAG.findall(answer)) + math.ceil(TOKENS_PER_WORD * len(words)) + len(marks) + 1


def tokens_of_json(answer: str) -> int:
    """Tokens of Qwen2.5-VL's answer: the pieces that its published rule cuts, labels' words at the common rate.

    The rule is the regular expression of its tokenizer in transformers, which cuts numbers into digits. A piece that
    is not a word of a label counts as one token. That is the least it can be: its vocabulary may split a piece
    further.
    """
    words = sum(len(phrase.split()) for phrase, _ in OBJECTS)
    pieces = pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated").pre_tokenize_str(answer)
    return len(pieces) - words + math.ceil(TOKENS_PER_WORD * words) + 1
