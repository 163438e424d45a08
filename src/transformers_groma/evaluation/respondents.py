"""Models that answer the rows of a benchmark: in words with regions, or with regions that they propose."""

import copy
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, ProcessorMixin
from transformers.image_processing_utils import BaseImageProcessor

from ..image_inputs import to_upright_8_bit
from ..models.groma.modeling_groma import GromaForConditionalGeneration
from ..models.groma.modeling_groma_detector import GromaForRegionProposal
from ..models.groma.processing_groma import GromaProcessor
from ..regions import Regions
from .benchmark import Asking, Respondent, Row
from .generation import PreparedQuestions, answer_questions, prepare_questions
from .predictions import Prediction
from .proposals import QueryScore, pack_detections, region_masks, unpack_detections
from .questions import question_of, question_text

# What a proposal respondent calls its two kinds of boxes.
REGIONS, QUERIES = "regions", "queries"
# Ranks the queries, as in the paper's Table 6.
QUERY_SCORE: QueryScore = "coco"


class _Chat(NamedTuple):
    """A batch of questions, and the rows that they belong to."""

    indices: list[int]
    image_ids: list[str]
    questions: PreparedQuestions


def by_family(
    **respondents: Callable[[PreTrainedModel, ProcessorMixin, Asking], Respondent],
) -> Callable[[PreTrainedModel, ProcessorMixin, Asking], Respondent]:
    """Make a `Benchmark.respondent` of one for each family of models.

    Args:
        **respondents: by `model_type`.

    Returns:
        `Callable`: makes the respondent of a model's family.
    """

    def respondent(model: PreTrainedModel, processor: ProcessorMixin, asking: Asking) -> Respondent:
        return respondents[model.config.model_type](model, processor, asking)

    return respondent


class ChatRespondent:
    """Answers the questions of rows in text, by greedy decoding.

    Args:
        model (`GromaForConditionalGeneration` or `GlammForConditionalGeneration`): put into evaluation mode.
        processor (`ProcessorMixin`): its processor. A row whose question is Groma's standard one is asked in that of
            the processor's family.
        asking (`Asking`): how questions are asked, the longest answer, and whether its regions get their masks.

    Raises:
        ValueError: a `prompt_seed` for questions without templates to draw from.
    """

    def __init__(self, model: PreTrainedModel, processor: ProcessorMixin, asking: Asking) -> None:
        if asking.task is None and asking.prompt_seed is not None:
            raise ValueError("`prompt_seed` has no effect here: rows keep their own wording. Leave it out.")
        self.model, self.processor, self.asking = model.eval(), processor, asking
        # A tokenizer serves one thread at a time, and `prepare` runs in another thread.
        self._processor_ahead = copy.deepcopy(processor)

    def question(self, row: Row) -> str:
        """The question of a row; see [`Respondent`]."""
        return question_text(self._asked(row))

    def prepare(self, rows: Sequence[Row]) -> _Chat:
        """Turn questions into model inputs; see [`Respondent`]."""
        asked = [self._asked(row) for row in rows]
        return _Chat(
            [row["index"] for row in rows],
            [row["image_id"] for row in rows],
            prepare_questions(self._processor_ahead, asked),
        )

    def answer(self, prepared: _Chat) -> list[Prediction]:
        """Answer a batch of questions; see [`Respondent`]."""
        answers = answer_questions(
            self.model, self.processor, prepared.questions, self.asking.max_new_tokens, self.asking.masks
        )
        return [
            Prediction.of(index, image_id, answer)
            for index, image_id, answer in zip(prepared.indices, prepared.image_ids, answers, strict=True)
        ]

    def _asked(self, row: Row) -> Row:
        return question_of(
            row,
            self.asking.task,
            self.asking.prompt_seed,
            wording=self.processor.question_wording,
            kind=self.asking.kind,
        )


class _Images(NamedTuple):
    """A batch of images, and the rows that they belong to.

    Attributes:
        indices (`list[int]`), image_ids (`list[str]`): numbers and images of the rows.
        pixel_values (`Tensor` of shape `(B, 3, image_size, image_size)`): what the model sees.
        sizes (`Tensor` of shape `(B, 2)`): `(height, width)` of the upright images.
        masked (`list[int]`): positions of the rows that have masks to compare with.
    """

    indices: list[int]
    image_ids: list[str]
    pixel_values: Tensor
    sizes: Tensor
    masked: list[int]


class ProposalRespondent:
    """Answers a row with two phrases: the regions of its image, and all queries of the proposer.

    Args:
        model (`GromaForRegionProposal` or `GromaForConditionalGeneration`): put into evaluation mode.
        processor (`GromaProcessor` or image processor): its processor.
        masks (`bool`): whether regions, not queries, get their masks, where the row has some to compare with.
    """

    def __init__(
        self,
        model: GromaForRegionProposal | GromaForConditionalGeneration,
        processor: GromaProcessor | BaseImageProcessor,
        masks: bool = False,
    ) -> None:
        self.model, self.masks = model.eval(), masks
        self.image_processor = processor.image_processor if isinstance(processor, GromaProcessor) else processor

    def question(self, row: Row) -> str:
        """Empty, as the image is the whole question; see [`Respondent`]."""
        return ""

    def prepare(self, rows: Sequence[Row]) -> _Images:
        """Turn images into pixels for the model; see [`Respondent`]."""
        images = [to_upright_8_bit(row["image"]) for row in rows]
        return _Images(
            [row["index"] for row in rows],
            [row["image_id"] for row in rows],
            self.image_processor(images=images, return_tensors="pt")["pixel_values"],
            torch.tensor([(image.height, image.width) for image in images]),
            [position for position, row in enumerate(rows) if row.get("masks") is not None],
        )

    @torch.no_grad()
    def answer(self, prepared: _Images) -> list[Prediction]:
        """Find the regions and queries of a batch of images; see [`Respondent`].

        Args:
            prepared: a batch from `prepare`.

        Returns:
            `list[Prediction]`: one a row, each with two phrases: `"regions"` (after score threshold and NMS, best
                first), with masks if wanted, and `"queries"`.
        """
        proposals = self.model.detect(prepared.pixel_values.to(self.model.device)).proposals
        packed = pack_detections(self.model, proposals, prepared.sizes, QUERY_SCORE)
        regions, queries = map(unpack_detections, packed)
        masks = [None] * len(regions)
        if self.masks and (rows := prepared.masked):
            found = region_masks(self.model, prepared.pixel_values[rows], packed[0][rows], prepared.sizes[rows])
            for row, of_regions in zip(rows, found, strict=True):
                masks[row] = [of_regions, None]  # Queries get none: there are hundreds of them.
        return [
            Prediction(index, image_id, "", [(REGIONS, _shortened(best)), (QUERIES, _shortened(every))], "", of_image)
            for index, image_id, best, every, of_image in zip(
                prepared.indices, prepared.image_ids, regions, queries, masks, strict=True
            )
        ]


def _shortened(regions: Regions) -> Regions:
    """The same regions in float64, as the shortest decimals that round to their float32, which keeps files small."""
    boxes, scores = (
        np.array([float(str(value)) for value in numbers.numpy().ravel()]).reshape(numbers.shape)
        for numbers in (regions.xyxy, regions.scores)
    )
    return Regions(boxes, scores)


__all__ = ["QUERIES", "REGIONS", "ChatRespondent", "ProposalRespondent", "by_family"]
