"""Annotates a batch of images with a model: one look at each, then all that is asked about them, in batches."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..answer_settings import VerbSettings
from ..answering import answer_questions
from ..data.annotation_columns import AnnotatedImage
from ..image_inputs import ImageSize
from ..perceived_images import PerceivedImage, perceive_inputs
from ..pipeline import ImageGroundingPipeline
from ..pointed_regions import PointedRegion, find_regions, has_region_proposer
from ..region_inputs import RegionPrompt
from ..regions import regions_of_slots
from ..segmenting import segment_regions
from ..verb_inputs import ImageQuestion
from ..verbs import located
from .prepared_images import PreparedImage
from .region_numbers import RegionNumbers
from .tasks import AnnotationTasks

# Regions of an image, as a question points at them, and their numbers in its row.
_Numbered = tuple[list[int], list[RegionPrompt]]


class Annotator:
    """Annotates images with one model.

    Args:
        model (`PreTrainedModel`): on its device; for proposals alone it may be a detector.
        processor (`ProcessorMixin`): of the model; of a detector anything that has its `image_processor`.
        tasks (`AnnotationTasks`): what is asked.
        batch_size (`int`): how many images are looked at, and how many questions are answered, together.
        generate_kwargs (`Mapping[str, Any]`): how answers are generated, as the verbs take it.

    Raises:
        ValueError: the model cannot do what is asked.

    Example:
    >>> from pathlib import Path
    >>> from transformers_groma.annotation.sources.image_folder import image_folder_shards
    >>> from transformers_groma.annotation.prepared_images import prepare_image
    >>> from transformers_groma.loading import load_model
    >>> annotator = Annotator(*load_model("hub_configs/groma-tiny", "cpu"), AnnotationTasks(proposals=True), 2, {})
    >>> (shard,) = image_folder_shards(Path("tests/fixtures/photos"), 8)
    >>> images = [prepare_image(image, annotator.image_processor, annotator.tasks) for image in shard.images()]
    >>> annotator.annotate(images)[0].image_id
    'cat_and_dog.jpg'
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        tasks: AnnotationTasks,
        batch_size: int,
        generate_kwargs: Mapping[str, Any],
    ) -> None:
        tasks.check()
        self.tasks, self.batch_size = tasks, batch_size
        self.image_processor = processor.image_processor
        self._model, self._processor = model.eval(), processor
        self._pipe: ImageGroundingPipeline | None = None
        self._settings: VerbSettings | None = None
        if model.can_generate():
            # Of a model that was placed in parts, the pipeline finds the device by itself.
            device = None if hasattr(model, "hf_device_map") else model.device
            self._pipe = ImageGroundingPipeline(
                model=model, processor=processor, device=device, task="image-grounding"
            )
            self._settings = self._pipe.list_settings(batch_size=batch_size, generate_kwargs=dict(generate_kwargs))
        tasks.check_model(model, processor, self._settings if tasks.asks else None)

    @torch.no_grad()
    def annotate(self, images: Sequence[PreparedImage]) -> list[AnnotatedImage]:
        """Annotate images: the model looks at all of them in one call.

        Args:
            images (`Sequence[PreparedImage]`): at least one.

        Returns:
            `list[AnnotatedImage]`: in the order of the images.
        """
        names = images[0].inputs
        inputs = {name: torch.cat([image.inputs[name] for image in images]) for name in names}
        return _Batch(self, images, self._look(inputs, [image.image.size for image in images])).rows()

    def _look(self, inputs: Mapping[str, Tensor], sizes: Sequence[ImageSize]) -> list[PerceivedImage]:
        if self._pipe is not None:
            return perceive_inputs(self._model, inputs, sizes)
        # A detector sees what its regions need, and no tokens.
        features = self._model.get_image_features(inputs["pixel_values"].to(self._model.device))
        return [PerceivedImage(size, one) for size, one in zip(sizes, features.split(), strict=True)]

    def ask(self, questions: Sequence[ImageQuestion], known: Mapping[int, PerceivedImage]) -> list[Any]:
        """Answer questions about images that were looked at."""
        return answer_questions(self._pipe, questions, self._settings, known)

    @property
    def model(self) -> Any:
        """The model."""
        return self._model

    @property
    def processor(self) -> Any:
        """The processor of the model."""
        return self._processor

    @property
    def pipe(self) -> ImageGroundingPipeline | None:
        """The pipeline that answers; `None` for a detector."""
        return self._pipe


class _Batch:
    """Images that are annotated together."""

    def __init__(
        self, annotator: Annotator, images: Sequence[PreparedImage], perceived: Sequence[PerceivedImage]
    ) -> None:
        self._annotator, self._tasks = annotator, annotator.tasks
        self._images, self._perceived = images, perceived
        self._known = {id(image.image): seen for image, seen in zip(images, perceived, strict=True)}
        slots = perceived[0].features.region_mask.shape[1] if has_region_proposer(annotator.model) else 0
        self._numbers = [RegionNumbers(slots) for _ in images]

    def rows(self) -> list[AnnotatedImage]:
        tasks, processor = self._tasks, self._annotator.processor
        captions = [None] * len(self._images)
        phrases = [()] * len(self._images)
        if tasks.caption is not None:
            captions = self._ask([tasks.caption_question(processor, image.image) for image in self._images])
            phrases = [numbers.add_caption(answer) for numbers, answer in zip(self._numbers, captions, strict=True)]
        found = self._located()
        regions = self._add_proposals() if tasks.needs_proposals else []
        if tasks.source_regions:
            regions = self._add_source()
        if tasks.describe:
            self._describe(regions)
        if tasks.masks:
            self._add_masks()
        return [
            AnnotatedImage(
                image_id=image.source.image_id,
                file_name=image.source.file_name,
                width=image.image.size.width,
                height=image.image.size.height,
                regions=numbers.regions(of_caption),
                text=None if caption is None else caption.text,
                markup=None if caption is None else caption.markup,
                phrases=of_caption,
                located=of_list,
            )
            for image, numbers, caption, of_caption, of_list in zip(
                self._images, self._numbers, captions, phrases, found, strict=True
            )
        ]

    def _ask(self, questions: Sequence[ImageQuestion]) -> list[Any]:
        return self._annotator.ask(questions, self._known)

    def _located(self) -> list[tuple[Any, ...]]:
        """The phrases of the list in each image."""
        phrases = self._tasks.phrases
        questions = [
            question
            for image in self._images
            for question in self._tasks.phrase_questions(self._annotator.processor, image.image)
        ]
        answers = iter(self._ask(questions) if questions else [])
        return [
            tuple(numbers.add_located(located(phrase, next(answers), all_of_them=True)) for phrase in phrases)
            for numbers in self._numbers
        ]

    def _add_proposals(self) -> list[_Numbered]:
        """Add the proposals of each image that are sure enough."""
        added = []
        for numbers, seen in zip(self._numbers, self._perceived, strict=True):
            slots = (seen.features.region_boxes, seen.features.region_scores, seen.features.region_mask)
            (regions,) = regions_of_slots(*slots, [(seen.size.height, seen.size.width)])
            regions = regions[regions.scores >= self._tasks.min_score]
            ids = [numbers.add_proposal(region) for region in regions]
            added.append((ids, [RegionPrompt(box) for box in regions.xyxy.tolist()]))
        return added

    def _describe(self, regions: Sequence[_Numbered]) -> None:
        """Describe regions of each image, given with their numbers."""
        processor = self._annotator.processor
        questions = [
            question
            for image, (_, prompts) in zip(self._images, regions, strict=True)
            for question in self._tasks.region_questions(processor, image.image, prompts)
        ]
        answers = iter(self._ask(questions) if questions else [])
        for numbers, (ids, _) in zip(self._numbers, regions, strict=True):
            for number in ids:
                numbers.describe(number, next(answers).text)

    def _add_source(self) -> list[_Numbered]:
        """Add the regions of the source."""
        added = []
        for image, numbers, regions in zip(self._images, self._numbers, self._source_regions(), strict=True):
            labelled = zip(regions, image.labels, strict=True)
            ids = [numbers.add_source(region.box, label, region.mask) for region, label in labelled]
            added.append((ids, [RegionPrompt(region.box, mask=region.mask) for region in regions]))
        return added

    def _source_regions(self) -> list[list[PointedRegion]]:
        """The regions of the source; clicks find theirs. With masks where these are wanted."""
        found = find_regions(
            self._annotator.model,
            [seen.features for seen in self._perceived],
            [seen.size for seen in self._perceived],
            [image.regions for image in self._images],
        )
        if not self._tasks.masks or not any(found):
            return found
        questions = [
            ImageQuestion(image.image, [], [RegionPrompt(region.box, mask=region.mask) for region in regions])
            for image, regions in zip(self._images, found, strict=True)
        ]
        segments = segment_regions(self._annotator.pipe, questions, self._annotator.batch_size, known=self._known)
        return [
            [region._replace(mask=mask) for region, mask in zip(regions, of_image.masks, strict=True)]
            for regions, of_image in zip(found, segments, strict=True)
        ]

    def _add_masks(self) -> None:
        """Add the masks of proposals. Those of a GLaMM came with its answers."""
        model = self._annotator.model
        for numbers, seen in zip(self._numbers, self._perceived, strict=True):
            if ids := numbers.without_mask:
                decoded = model.segment(seen.features, slots=torch.tensor([ids], device=model.device))
                masks = model.upright_masks(decoded.logits[0, : len(ids), 0], seen.size.height, seen.size.width)
                for number, mask in zip(ids, masks, strict=True):
                    numbers.add_mask(number, mask)


__all__ = ["Annotator"]
