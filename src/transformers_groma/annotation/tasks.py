"""What is asked about each image: a caption, phrases to locate, descriptions of regions; proposals and masks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..answer_masks import check_mask_decoder
from ..answer_settings import VerbSettings
from ..answering import check_length
from ..boxes import BoxFormat
from ..image_inputs import ImageSize
from ..pointed_regions import check_region_proposer
from ..region_inputs import RegionPrompt
from ..verb_inputs import ImageQuestion, ReadImage, box_part, phrase_part, text_part

CAPTIONS = {"detailed": "grounded_description", "brief": "grounded_caption"}
# Stands for an image while lengths of questions are checked.
_ANY_SIZE = ImageSize(448, 448)


@dataclass(frozen=True)
class AnnotationTasks:
    """What is asked about each image, in one look at it. The questions are those of the pipeline's verbs.

    Args:
        caption (`str`, *optional*): `"detailed"` or `"brief"`: describe the image, phrases tied to regions.
        phrases (`tuple[str, ...]`): find everything of each kind, as `locate_all`.
        describe (`bool`): describe regions: those of the source if it has any, else the proposals.
        proposals (`bool`): write the proposals, also those that nothing names.
        masks (`bool`): regions have masks. Those that a GLaMM names have them in any case.
        source_regions (`bool`): write the regions of the source.
        min_score (`float`): least score of proposals that are written or described.
        box_format (`str`), normalized (`bool`): how the source gives boxes, see `read_region`.

    Example:
    >>> AnnotationTasks(caption="brief", phrases=("stars",)).asks
    True
    """

    caption: Literal["detailed", "brief"] | None = None
    phrases: tuple[str, ...] = ()
    describe: bool = False
    proposals: bool = False
    masks: bool = False
    source_regions: bool = False
    min_score: float = 0.0
    box_format: BoxFormat = "xyxy"
    normalized: bool = False

    @property
    def asks(self) -> bool:
        """Whether the model is asked anything."""
        return self.caption is not None or bool(self.phrases) or self.describe

    @property
    def needs_language_model(self) -> bool:
        """Whether a detector is not enough."""
        return self.asks or self.source_regions

    @property
    def needs_proposals(self) -> bool:
        """Whether a region proposer is needed."""
        return self.proposals or (self.describe and not self.source_regions)

    def check(self) -> None:
        """Refuse tasks that write nothing, and settings that nothing would read.

        Raises:
            ValueError: the message says what to do.
        """
        if not (self.asks or self.proposals or self.source_regions):
            raise ValueError("nothing is asked. Pass --caption, --locate, --describe or --proposals.")
        if self.source_regions and not (self.asks or self.proposals or self.masks):
            raise ValueError(
                "--regions-column names regions, but nothing is asked about them. Pass --describe or --masks."
            )
        if self.min_score and not self.needs_proposals:
            raise ValueError("--min-score is for proposals. Pass --proposals or --describe, too, or leave it out.")
        if not self.source_regions and (self.box_format != "xyxy" or self.normalized):
            raise ValueError("--box-format and --normalized are for the regions of --regions-column. Leave them out.")
        for number, phrase in enumerate(self.phrases):
            phrase_part(phrase, f"--locate, phrase {number + 1}")
            if phrase in self.phrases[:number]:
                raise ValueError(f"--locate {phrase!r} is given twice. Leave one of them out.")

    def check_model(self, model: Any, processor: Any, settings: VerbSettings | None) -> None:
        """Refuse what a model cannot do, before it looks at an image.

        Args:
            model (`PreTrainedModel`), processor (`ProcessorMixin`): the model.
            settings (`VerbSettings`, *optional*): how it answers, where it is asked.

        Raises:
            ValueError: it has no region proposer or mask decoder, or a question is too long for it.
        """
        if self.needs_proposals:
            check_region_proposer(model, "--proposals" if self.proposals else "--describe without --regions-column")
        if self.masks:
            check_mask_decoder(model, "--masks")
        if settings is None:
            return
        image = ReadImage(None, _ANY_SIZE)
        questions = [question for question in (self.caption_question(processor, image),) if question is not None]
        questions += self.phrase_questions(processor, image)
        if self.describe:
            parts = self._parts(processor, "region_caption", region=box_part([0, 0, 9, 9]))
            questions.append(ImageQuestion(image, parts, [RegionPrompt([0.0, 0.0, 9.0, 9.0])]))
        for question in questions:
            check_length(_Checked(model, processor), [question], settings.generation)

    def caption_question(self, processor: Any, image: ReadImage) -> ImageQuestion | None:
        """The question for a caption, as `caption` asks it; `None` where none is wanted."""
        if self.caption is None:
            return None
        return ImageQuestion(image, self._parts(processor, CAPTIONS[self.caption]))

    def phrase_questions(self, processor: Any, image: ReadImage) -> list[ImageQuestion]:
        """The question for each phrase, as `locate_all` asks it."""
        return [
            ImageQuestion(image, self._parts(processor, "grounding", phrase=phrase_part(phrase, "phrase")))
            for phrase in self.phrases
        ]

    def region_questions(
        self, processor: Any, image: ReadImage, regions: Sequence[RegionPrompt]
    ) -> list[ImageQuestion]:
        """The question what each region shows, as `describe` asks it."""
        return [
            ImageQuestion(image, self._parts(processor, "region_caption", region=region.part()), [region])
            for region in regions
        ]

    def _parts(self, processor: Any, kind: str, **slots: Any) -> list[dict[str, Any]]:
        return processor.question_wording.parts(kind, text_part, slots)


@dataclass(frozen=True)
class _Checked:
    """What `check_length` reads of a pipeline."""

    model: Any
    processor: Any


__all__ = ["CAPTIONS", "AnnotationTasks"]
