"""Masks of answers that a model is given, read at each `[SEG]` of a conversation whose text is known.

A GLaMM writes a `[SEG]` where it points, and the state that predicts it says what the mask is. So an answer need not
be generated to have masks: one pass over question and answer has the states of every `[SEG]` of the conversation. This
is how the script of GLaMM measures referring segmentation.
"""

import copy
import random
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import BatchFeature, PreTrainedModel, ProcessorMixin

from .._words import counted
from ..data.columns import image_part, region_part, text_part
from ..data.conversations import answer_segments, to_messages
from ..image_inputs import ImageSize, image_size
from ..markup import SEGMENT_TOKEN
from ..masks import mask_to_rle, masks_to_boxes
from ..regions import Regions
from .benchmark import Asking, Row, row_name
from .predictions import Prediction
from .questions import question_of, question_text
from .shared_images import distinct_images, features_of_images, features_of_rows, image_views

# How the script asks for the mask of an expression, and how its answers say it: both are drawn for each turn.
SEGMENTATION_QUESTIONS = tuple(
    f"{question}{mark}"
    for question, marks in (
        ("Can you segment the {} in this image", "?"),
        ("Please segment {} in this image", "."),
        ("What is {} in this image? Please respond with segmentation mask", "."),
        ("What is {} in this image? Please output segmentation mask", "."),
        ("Could you provide a segmentation mask for the {} in this image", "?"),
        ("Please identify and segment the {} in this image", "."),
        ("Where is the {} in this picture? Please respond with a segmentation mask", "."),
        ("Can you highlight the {} in this image with a segmentation mask", "?"),
    )
    for mark in (marks, "")
)
SEGMENTATION_ANSWERS = ("It is {}.", "Sure, {}.", "Sure, it is {}.", "Sure, the segmentation result is {}.", "{}.")


class _Conversations(NamedTuple):
    """A batch of rows, and the conversations that they belong to.

    Attributes:
        rows (`Sequence[Mapping]`): the rows, without their images.
        numbers (`list[int]`): for each row the number of its conversation; rows of one image may share it.
        inputs (`BatchFeature`): of the conversations, on the CPU.
        images (`list[int]`): for each conversation the first one about the same image.
        sizes (`list[ImageSize]`): of the upright images of the conversations.
    """

    rows: Sequence[Row]
    numbers: list[int]
    inputs: BatchFeature
    images: list[int]
    sizes: list[ImageSize]


class ForcedSegmentationRespondent:
    """Answers rows of referring segmentation with the masks of true answers, several expressions in a conversation.

    Rows have `expressions`, those of their conversation in order, and `turn`, the place of their own: see
    `benchmarks/glamm_segmentation.py`.

    Args:
        model (`GlammForConditionalGeneration`): put into evaluation mode.
        processor (`GlammProcessor`): its processor.
        asking (`Asking`): `prompt_seed` draws the wordings of questions and answers.
    """

    def __init__(self, model: PreTrainedModel, processor: ProcessorMixin, asking: Asking) -> None:
        self.reader, self.seed = ForcedAnswers(model, processor), asking.prompt_seed or 0

    def question(self, row: Row) -> str:
        """The question of a row, after those of the turns before; see [`Respondent`]."""
        return "\n".join(question for question, _ in self._turns(row)[: row["turn"] + 1])

    def prepare(self, rows: Sequence[Row]) -> _Conversations:
        """Put the expressions of each image into one conversation; see [`Respondent`]."""
        # Images without a name have a conversation of their own each.
        names = [(row["source"], row["image_id"] or row["index"], tuple(row["expressions"])) for row in rows]
        return self.reader.prepare(rows, names, [self._conversation(row) for row in rows])

    def answer(self, prepared: _Conversations) -> list[Prediction]:
        """Read the mask of each row's own expression; see [`Respondent`]."""
        found = self.reader.masks(prepared)
        return [
            forced_prediction(row, [""], masks[row["turn"]][None])
            for row, masks in zip(prepared.rows, found, strict=True)
        ]

    def _turns(self, row: Row) -> list[tuple[str, str]]:
        turns = []
        for turn, expression in enumerate(row["expressions"]):
            draw = random.Random(f"{self.seed}/{row['source']}/{row['image_id']}/{turn}")
            question, answer = draw.choice(SEGMENTATION_QUESTIONS), draw.choice(SEGMENTATION_ANSWERS)
            turns.append((question.format(expression.strip().lower()), answer))
        return turns

    def _conversation(self, row: Row) -> Row:
        # What the region of an answer is does not matter: its text is [SEG], whatever it points at.
        somewhere = [0, 0, *row["image"].size]
        messages = []
        for turn, (question, answer) in enumerate(self._turns(row)):
            before, after = answer.split("{}")
            said = [*([text_part(before)] if before else []), region_part(0), text_part(after)]
            asked = [text_part(question)] if turn else [image_part(), text_part(question)]
            messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]
        return {**row, "boxes_xyxy": [somewhere], "messages": messages}


class ForcedCaptionRespondent:
    """Answers rows with the masks of their own caption, which is given as the answer to the standard question.

    Rows are conversations of one question and a caption with phrases.

    Args:
        model (`GlammForConditionalGeneration`): put into evaluation mode.
        processor (`GlammProcessor`): its processor.
        asking (`Asking`): without a `prompt_seed`: the question is the standard one of the model, for a detailed
            description.

    Raises:
        ValueError: a `prompt_seed`.
    """

    def __init__(self, model: PreTrainedModel, processor: ProcessorMixin, asking: Asking) -> None:
        if asking.prompt_seed is not None:
            raise ValueError(
                f"`prompt_seed` {asking.prompt_seed} has no effect here: a given caption is the answer to the model's "
                "standard question. Leave it out."
            )
        self.reader, self.wording = ForcedAnswers(model, processor), processor.question_wording

    def question(self, row: Row) -> str:
        """The question of a row; see [`Respondent`]."""
        return question_text(self._asked(row))

    def prepare(self, rows: Sequence[Row]) -> _Conversations:
        """Put each caption behind the question; see [`Respondent`]."""
        conversations = [{**row, "messages": [*self._asked(row)["messages"], row["messages"][-1]]} for row in rows]
        return self.reader.prepare(rows, [row["index"] for row in rows], conversations)

    def answer(self, prepared: _Conversations) -> list[Prediction]:
        """Read the mask of each phrase; see [`Respondent`]."""
        return [
            forced_prediction(row, _pointing_phrases(row), masks)
            for row, masks in zip(prepared.rows, self.reader.masks(prepared), strict=True)
        ]

    def _asked(self, row: Row) -> Row:
        return question_of(row, wording=self.wording, kind="grounded_description")


class ForcedAnswers:
    """Reads the masks of conversations whose answers are known.

    Args:
        model (`GlammForConditionalGeneration`): put into evaluation mode.
        processor (`GlammProcessor`): its processor.
    """

    def __init__(self, model: PreTrainedModel, processor: ProcessorMixin) -> None:
        self.model = model.eval()
        # A tokenizer serves one thread at a time, and `prepare` runs in another thread.
        self._processor_ahead = copy.deepcopy(processor)
        self._views = image_views(processor)

    def prepare(
        self, rows: Sequence[Row], names: Sequence[Any], conversations: Sequence[Mapping[str, Any]]
    ) -> _Conversations:
        """Turn conversations into model inputs. This needs no model, so it can run ahead of it.

        Args:
            rows (`Sequence[Mapping]`): a batch with its images decoded, and `index`.
            names (`Sequence`): for each row what its conversation is known by; rows of one name share it.
            conversations (`Sequence[Mapping]`): for each row its conversation in the conversation columns, with
                answers.

        Returns:
            `_Conversations`

        Raises:
            ValueError: a conversation has a `[SEG]` in its words, so that masks would belong to others.
        """
        order = list(dict.fromkeys(names))
        firsts = [names.index(name) for name in order]
        images = [rows[first]["image"] for first in firsts]
        inputs = self._processor_ahead.apply_chat_template(
            [to_messages(conversations[first]) for first in firsts],
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True},
        )
        for first, ids in zip(firsts, inputs["input_ids"], strict=True):
            count = int((ids == self.model.config.seg_token_id).sum())
            wanted = len(answer_segments(conversations[first]["messages"]))
            if count != wanted:
                name = row_name(rows[first]["index"], rows[first])
                raise ValueError(
                    f"{name} has {count} `{SEGMENT_TOKEN}` in its conversation, but its answers point at "
                    f"{counted(wanted, 'thing')}. Leave `{SEGMENT_TOKEN}` out of its texts."
                )
        views = [inputs[name] for name in self._views]
        return _Conversations(
            [{name: value for name, value in row.items() if name != "image"} for row in rows],
            [order.index(name) for name in names],
            inputs,
            distinct_images([rows[first]["image_id"] for first in firsts], views),
            [ImageSize(*image_size(image)) for image in images],
        )

    @torch.no_grad()
    def masks(self, prepared: _Conversations) -> list[np.ndarray]:
        """The masks of a batch, of every `[SEG]` of a row's conversation.

        Args:
            prepared (`_Conversations`): of `prepare`.

        Returns:
            `list[np.ndarray]`: for each row bool `(n, H, W)`, in the order of the text, in the upright image.
        """
        inputs = prepared.inputs.to(self.model.device)
        views = {name: inputs[name] for name in self._views}
        features = features_of_rows(features_of_images(self.model, views, prepared.images), prepared.images)
        if "refer_boxes" in inputs:
            features = self.model.encode_regions(features, inputs["refer_boxes"])
        # The body alone: nobody needs the logits of a thousand positions.
        output = self.model.model(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            mm_encoder_outputs={"image": features},
            use_cache=False,
        )
        # The state that predicts a token is at the position before it.
        states = [
            hidden[(ids == self.model.config.seg_token_id).nonzero()[:, 0] - 1]
            for hidden, ids in zip(output.last_hidden_state, inputs["input_ids"], strict=True)
        ]
        decoded = self.model.decode_segments(features, states, list(range(len(states))))
        masks = [
            self.model.upright_masks(of_conversation.logits, size.height, size.width)
            for of_conversation, size in zip(decoded, prepared.sizes, strict=True)
        ]
        return [masks[number] for number in prepared.numbers]


def forced_prediction(row: Row, texts: Sequence[str], masks: np.ndarray) -> Prediction:
    """A prediction of phrases with one mask each.

    Args:
        row (`Mapping`): the row, with `index` and `image_id`.
        texts (`Sequence[str]`): the phrases.
        masks (`np.ndarray` of shape `(n, H, W)`, bool): their masks.

    Returns:
        `Prediction`: each phrase has one region: the box around its mask, of no size where the mask is empty.
    """
    boxes = masks_to_boxes(masks)
    phrases = [(text, Regions(box[None], np.ones(1))) for text, box in zip(texts, boxes, strict=True)]
    return Prediction(
        row["index"], row["image_id"], " ".join(texts).strip(), phrases, "", [[mask_to_rle(mask)] for mask in masks]
    )


def _pointing_phrases(row: Row) -> list[str]:
    """The phrases of a row's answer that point at something, in order: each has one `[SEG]`."""
    return [part["text"] for part in row["messages"][-1]["content"] if part["boxes"]]


__all__ = [
    "SEGMENTATION_ANSWERS",
    "SEGMENTATION_QUESTIONS",
    "ForcedAnswers",
    "ForcedCaptionRespondent",
    "ForcedSegmentationRespondent",
    "forced_prediction",
]
