"""Conversations about scenes as token ids, for the language model before the whole model is trained."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from transformers import PreTrainedTokenizerBase

from transformers_groma.markup import GROUNDING_TOKEN, IMAGE_TOKEN, REGION_TOKEN, SEGMENT_TOKEN
from transformers_groma.models.modeling_positions import IGNORED_LABEL
from transformers_groma.shapes.expressions import outermost_object, related_object, some_group, unique_object
from transformers_groma.shapes.glamm_wording import in_glamm_words
from transformers_groma.shapes.questions import converse
from transformers_groma.shapes.wording import words
from transformers_groma.shapes.world import Content, Phrase, Region, World

HEAD = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions. "
)
OVERVIEW = f"The <im_start>{IMAGE_TOKEN}<im_end> provides an overview of the picture.\n"
INTERLEAVED = " Please respond with interleaved     segmentation masks for the corresponding parts of the answer."
# How often each kind of question comes in a conversation.
MIXTURE = {
    "rec": 0.24,
    "grounding": 0.4,
    "region-caption": 0.13,
    "grounded-caption": 0.06,
    "count": 0.03,
    "exists": 0.03,
    "color": 0.04,
    "shape": 0.04,
    "neighbor": 0.03,
}
QUESTIONS, DRILLS = 6, 12
POSITION_SHARE = 0.2
# How many of a drill's expressions mean a group.
GROUP_SHARE = 0.5


@dataclass
class Row:
    """A conversation as token ids.

    Args:
        input_ids (`list[int]`): with one placeholder for each patch of the image and each region.
        labels (`list[int]`): as many; -100 outside answers.
        regions (`list[int]`): the objects that the user points at, in order.
        segments (`list[tuple[int, tuple[int, ...]]]`): for each `[SEG]`, the position of the token that predicts it,
            and the objects that it means.
    """

    input_ids: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    regions: list[int] = field(default_factory=list)
    segments: list[tuple[int, tuple[int, ...]]] = field(default_factory=list)


class RowMaker:
    """Makes conversations about scenes.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): the model's.
        num_image_tokens (`int`): placeholders of an image.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, num_image_tokens: int):
        self.tokenizer = tokenizer
        self.num_image_tokens = num_image_tokens
        self.image_id, self.region_id, self.segment_id = tokenizer.convert_tokens_to_ids(
            [IMAGE_TOKEN, REGION_TOKEN, SEGMENT_TOKEN]
        )

    def drill(self, world: World, rng: np.random.Generator) -> Row:
        """Expressions, each for an object or a group and followed by its `[SEG]`: many look-ups in few tokens."""
        row = self._introduce()
        self._add(row, f"What is the picture?{INTERLEAVED} ASSISTANT:")
        for _ in range(DRILLS):
            group = some_group(world, rng, with_shape=False) if rng.random() < GROUP_SHARE else None
            if group is not None:
                phrase = Phrase(words(group, plural=True), world.matches(group))
                self._add_content(row, (" ", phrase), learn=False)
                continue
            found = None
            if rng.random() < POSITION_SHARE:
                found = (outermost_object, related_object)[rng.integers(2)](world, rng)
            found = found or unique_object(world, rng)
            if found is not None:
                article = ("the ", "a ", "")[rng.integers(3)]
                self._add_content(row, (" ", Phrase(f"{article}{found[0]}", (found[1],))), learn=False)
        return row

    def description(self, world: World, rng: np.random.Generator) -> Row:
        """A description of a scene, whose phrases have a `[SEG]` each."""
        return self.conversation(world, rng, {"grounded-caption": 1.0})

    def conversation(self, world: World, rng: np.random.Generator, kinds: Mapping[str, float] = MIXTURE) -> Row:
        """Questions and answers about a scene, in GLaMM's words; `kinds` says how often each kind comes."""
        row = self._introduce()
        exchanges = converse(kinds, world, rng, QUESTIONS, position_share=POSITION_SHARE)
        for number, exchange in enumerate(exchanges):
            exchange = in_glamm_words(exchange, rng)
            self._add(row, "USER: " if number else "")
            self._add_content(row, exchange.question, learn=False)
            self._add(row, " ASSISTANT:")
            self._add_content(row, (" ", *exchange.answer, "</s>"), learn=True)
        return row

    def _introduce(self) -> Row:
        row = Row([self.tokenizer.bos_token_id], [IGNORED_LABEL])
        self._add(row, f"{HEAD}USER: {OVERVIEW}".replace(IMAGE_TOKEN, IMAGE_TOKEN * self.num_image_tokens))
        return row

    def _add_content(self, row: Row, content: Content, learn: bool) -> None:
        """Add text and its marks as the chat template writes them."""
        text, targets, grounded = "", [], False
        for part in content:
            match part:
                case Region(index):
                    text += REGION_TOKEN
                    row.regions.append(index)
                case Phrase(named, ()):
                    text += named
                case Phrase(named, indices):
                    text += f"<p> {named} </p> {SEGMENT_TOKEN}" if named else SEGMENT_TOKEN
                    targets.append(indices)
                case _:
                    grounded = grounded or GROUNDING_TOKEN in part
                    text += part.replace(GROUNDING_TOKEN, "")
        first = len(row.input_ids)
        self._add(row, text + (INTERLEAVED if grounded else ""), learn)
        places = [place for place in range(first, len(row.input_ids)) if row.input_ids[place] == self.segment_id]
        row.segments += [(place - 1, target) for place, target in zip(places, targets, strict=True)]

    def _add(self, row: Row, text: str, learn: bool = False) -> None:
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        row.input_ids.extend(ids)
        row.labels.extend(ids if learn else [IGNORED_LABEL] * len(ids))
