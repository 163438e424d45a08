"""The verbs of a pipeline: caption, describe, locate, segment, ask and chat, without the marks of a prompt."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Unpack

import numpy as np
from transformers.image_utils import ImageInput

from .answer_masks import check_mask_decoder
from .answer_settings import (
    BoxListSettings,
    BoxSettings,
    ListSettings,
    SegmentSettings,
    VerbSettings,
    check_flags,
    check_names,
)
from .grounded_chat import GroundedChat
from .grounding import GroundedPhrase, GroundedText
from .image_inputs import ImageSize
from .perceived_images import perceive
from .pointed_regions import has_region_proposer
from .regions import Regions, with_extent
from .segmenting import (
    check_one_region_each,
    check_settings_of_phrase,
    check_settings_of_regions,
    is_phrase,
    segment_regions,
    segments_of_phrase,
)
from .verb_inputs import (
    ImageQuestion,
    images_with_regions,
    one_of,
    paired,
    questions_with_phrases,
    questions_with_regions,
    questions_with_sets,
    read_images,
)
from .verb_steps import VerbSteps


class GroundingVerbs(VerbSteps):
    """What [`ImageGroundingPipeline`] does for people who do not want to write prompts.

    Every verb takes one image or a list of images, and one or a list of what is asked about each: lists are paired
    entry by entry, single values serve all. One image with a list is looked at once. Lists are answered by lists.
    A list is read whole before the first answer; for thousands of images call the pipeline itself with a generator.

    Images are what the pipeline takes, but for dicts. A region is a box `[x1, y1, x2, y2]`, `xyxy` in absolute pixels
    of the upright image (`box_format` and `normalized` say otherwise), a bool mask `(H, W)` of the upright image,
    `Regions` of one region, such as one of an answer, or a dict: `{"box": …}`, `{"mask": array or COCO's RLE}`,
    `{"point": [x, y]}`, `{"points": [[x, y], …], "labels": [1, 0, …]}` (1 on the region, 0 not on it) or
    `{"scribble": [[x, y], …]}`, with points and scribbles in absolute pixels, too, and optionally `"ambiguity":
    "part"`, `"object"` or `"group"`. Points and scribbles become a mask, and its box is the region; a model without a
    mask decoder takes the smallest of its proposals around them.

    With `masks=True` the regions that an answer names, and those of the question, have masks; those that a GLaMM names
    have them in any case. Control tokens (`<p>`, `<r5>`, `[SEG]`, `</s>`, …) in phrases and questions are plain text.
    Bad input is refused before the model runs.
    """

    def caption(
        self,
        image: ImageInput | Sequence[ImageInput],
        *,
        brief: bool = False,
        stream: bool = False,
        **settings: Unpack[ListSettings],
    ) -> GroundedText | list[GroundedText] | Iterator[GroundedText]:
        """Describe an image, the phrases of the description tied to regions.

        Args:
            image (PIL image, array, tensor, path or URL, or a list of these): the image.
            brief (`bool`): whether to ask for a short caption, as caption benchmarks do, instead of a detailed
                description.
            stream (`bool`): whether to return an iterator over the description so far, for one image; the last one is
                whole. Leaving the loop stops the model.
            **settings: `max_new_tokens` (256 by default), `generate_kwargs` (everything else that `model.generate`
                takes), `masks` (whether the regions that phrases name should have masks) and, for lists, `batch_size`.

        Returns:
            `GroundedText`, a list of these for a list, or an iterator over several. With `num_return_sequences` above
            1 a list of answers in place of each.

        Raises:
            TypeError: an unknown setting.
            ValueError: bad images or settings, or `masks=True` with a model that has no mask decoder.

        Example:

        ```python
        >>> from transformers_groma import ImageGroundingPipeline
        >>> from transformers_groma.shapes.scenes import make_scene

        >>> groma = ImageGroundingPipeline.from_pretrained("hub_configs/groma-tiny")
        >>> groma.caption(make_scene(seed=0, split="test", index=3).draw()).text[:17]
        'The image shows a'

        ```"""
        checked = self._settings("caption", settings, ListSettings, "`image`, `brief`, `stream`")
        check_flags(brief=brief, stream=stream)
        fill = self._standard_question("caption", "grounded_caption" if brief else "grounded_description")
        entries, are_many = paired(image=read_images(image))
        questions = [ImageQuestion(entry["image"].value, fill({})) for entry in entries]
        return self._answer(questions, are_many, stream, checked)

    def describe(
        self,
        image: ImageInput | Sequence[ImageInput],
        region: Any,
        *,
        stream: bool = False,
        **settings: Unpack[BoxListSettings],
    ) -> GroundedText | list[GroundedText] | Iterator[GroundedText]:
        """Describe a region of an image.

        Args:
            image (PIL image, array, tensor, path or URL, or a list of these): the image.
            region (a box, a mask, `Regions` of one region, a dict with a `point`, `points`, a `scribble`, …, or a list
                of these): the region, in all forms that [`read_region`] takes. A list for one image asks about each.
            stream (`bool`): as in `caption`.
            **settings: as in `caption`; also `box_format` and `normalized`.

        Returns:
            As `caption`. `user_region_ids` of an answer has the number of the region.

        Raises:
            TypeError: an unknown setting.
            ValueError: bad images, regions or settings.

        Example:

        ```python
        >>> from transformers_groma import ImageGroundingPipeline
        >>> from transformers_groma.shapes.scenes import make_scene

        >>> groma = ImageGroundingPipeline.from_pretrained("hub_configs/groma-tiny")
        >>> scene = make_scene(seed=0, split="test", index=3)
        >>> print(groma.describe(scene.draw(), scene.boxes_xyxy[0]))
        A small striped red star.

        ```"""
        checked = self._settings("describe", settings, BoxListSettings, "`image`, `region`, `stream`")
        check_flags(stream=stream)
        fill = self._standard_question("describe", "region_caption")
        questions, are_many = questions_with_regions(image, region, checked.form, lambda part: fill({"region": part}))
        return self._answer(questions, are_many, stream, checked)

    def locate(
        self, image: ImageInput | Sequence[ImageInput], phrase: str | Sequence[str], **settings: Unpack[ListSettings]
    ) -> GroundedPhrase | list[GroundedPhrase]:
        """Find what a phrase refers to, such as "the red cup".

        Args:
            image (PIL image, array, tensor, path or URL, or a list of these): the image.
            phrase (`str` or `list[str]`): what to find, plain text. A list for one image finds each.
            **settings: as in `caption`.

        Returns:
            `GroundedPhrase`: the phrase and the regions that the model named first, mostly one, with masks if these
            were asked for; a list of these for a list. Where the model names no region, there is none: `boxes` has
            shape `(0, 4)` and the phrase is false, as in `if cup := groma.locate(image, "the red cup")`. A model may
            also name a region for what is not there.

        Raises:
            TypeError: an unknown setting.
            ValueError: bad images, phrases or settings.

        Example:

        ```python
        >>> from transformers_groma import ImageGroundingPipeline
        >>> from transformers_groma.shapes.scenes import make_scene

        >>> groma = ImageGroundingPipeline.from_pretrained("hub_configs/groma-tiny")
        >>> star = groma.locate(make_scene(seed=0, split="test", index=3).draw(), "the large red star")
        >>> star.text, star.boxes.shape
        ('the large red star', torch.Size([1, 4]))

        ```"""
        return self._locate("locate", "rec", "phrase", image, phrase, settings)

    def locate_all(
        self,
        image: ImageInput | Sequence[ImageInput],
        category: str | Sequence[str],
        **settings: Unpack[ListSettings],
    ) -> GroundedPhrase | list[GroundedPhrase]:
        """Find everything of a kind, such as "chairs".

        Args:
            image (PIL image, array, tensor, path or URL, or a list of these): the image.
            category (`str` or `list[str]`): what to find, plain text, in the plural. A list for one image finds each.
            **settings: as in `caption`.

        Returns:
            `GroundedPhrase`: the category and all regions that the model named, each once; a list of these for a list.
            A GLaMM may answer with one mask of them all.
            Where the model names none, `boxes` has shape `(0, 4)`, as in `locate`.

        Raises:
            TypeError: an unknown setting.
            ValueError: bad images, categories or settings.

        Example:

        ```python
        >>> from transformers_groma import ImageGroundingPipeline
        >>> from transformers_groma.shapes.scenes import make_scene

        >>> groma = ImageGroundingPipeline.from_pretrained("hub_configs/groma-tiny")
        >>> len(groma.locate_all(make_scene(seed=0, split="test", index=3).draw(), "striped stars").boxes)
        2

        ```"""
        return self._locate("locate_all", "grounding", "category", image, category, settings)

    def segment(
        self,
        image: ImageInput | Sequence[ImageInput],
        target: Any,
        *,
        multimask: bool = False,
        **settings: Unpack[SegmentSettings],
    ) -> Regions | list[Regions]:
        """Find the pixels of what a phrase refers to, or of regions.

        Args:
            image (PIL image, array, tensor, path or URL, or a list of these): the image.
            target (`str`, a region, a set of regions, or a list of these): what to segment. A phrase, such as "the
                red cup", is located first; a list of phrases for one image finds each. Regions, in all forms that
                [`read_region`] takes, are segmented without the language model. A mask that is given stays as it is.
            multimask (`bool`): for a region that may mean a part, an object or a group, such as that of a single
                click: all masks that it may mean, best first.
            **settings: for a phrase as in `caption`; for regions `box_format`, `normalized` and `batch_size`.

        Returns:
            `Regions` with masks and the boxes around these; a list of them for a list. Those of a phrase are what the
            model named first, perhaps nothing; their `labels` are the phrase, their `scores` those of the proposals,
            or of a GLaMM's masks the estimated IoU. Of regions there is one for each, its score the estimated IoU of
            its mask, or 1 for a mask that was given.

        Raises:
            TypeError: an unknown setting.
            ValueError: bad images, phrases, regions or settings, or a model without a mask decoder.

        Example:
        ```python
        (cup,) = groma.segment(image, "the red cup")
        clicked = groma.segment(image, {"point": [90, 300]})
        print(clicked.mask.sum(), "pixels")
        ```
        """
        check_flags(multimask=multimask)
        check_names("segment", settings, SegmentSettings, "`image`, `target`, `multimask`")
        check_mask_decoder(self.model, "`segment`")
        if is_phrase(target):
            check_settings_of_phrase(settings, multimask)
            found = self._locate("segment", "rec", "target", image, target, {**settings, "masks": True})
            return segments_of_phrase(found)
        check_settings_of_regions(self.model, settings, multimask)
        checked = self._settings("segment", settings, SegmentSettings, "`image`, `target`, `multimask`")
        entries, are_many = images_with_regions(image, target, checked.form, "target")
        if multimask:
            check_one_region_each(entries)
        segments = segment_regions(self, entries, checked.batch_size, multimask)
        return segments if are_many else segments[0]

    def ask(
        self,
        image: ImageInput | Sequence[ImageInput],
        question: str | Sequence[str],
        boxes: Any = None,
        *,
        regions: Any = None,
        grounded: bool = False,
        stream: bool = False,
        **settings: Unpack[BoxListSettings],
    ) -> GroundedText | list[GroundedText] | Iterator[GroundedText]:
        """Ask a question about an image, and about regions of it.

        Args:
            image (PIL image, array, tensor, path or URL, or a list of these): the image.
            question (`str` or `list[str]`): plain text. With a `<region>` mark for each region the marks say where
                they belong; without any mark they are named at its end. A list for one image asks each.
            boxes (array-like of shape `(n, 4)`, `Regions`, a list of regions, or a list of all these, one for each,
                *optional*): regions that the question points at, `xyxy` in absolute pixels of the upright image.
            regions (*optional*): the same under a name that also fits clicks, scribbles and masks, in all forms that
                [`read_region`] takes. Not both.
            grounded (`bool`): whether the phrases of the answer should be tied to regions, as `[grounding]` asks.
            stream (`bool`): as in `caption`.
            **settings: as in `caption`; also `box_format` and `normalized`.

        Returns:
            As `caption`. `user_regions` of an answer are those of the question, in their order.

        Raises:
            TypeError: an unknown setting.
            ValueError: bad images, questions, regions or settings; as many regions as `<region>` marks, where there
                are any.

        Example:

        ```python
        >>> from transformers_groma import ImageGroundingPipeline
        >>> from transformers_groma.shapes.scenes import make_scene

        >>> groma = ImageGroundingPipeline.from_pretrained("hub_configs/groma-tiny")
        >>> scene = make_scene(seed=0, split="test", index=3)
        >>> for partial in groma.ask(scene.draw(), "What color is this?", boxes=scene.boxes_xyxy[:1], stream=True):
        ...     pass
        >>> print(partial)
        Red.

        ```"""
        arguments = "`image`, `question`, `boxes`, `regions`, `grounded`, `stream`"
        checked = self._settings("ask", settings, BoxListSettings, arguments)
        check_flags(grounded=grounded, stream=stream)
        given, name = one_of(boxes, regions)
        questions, are_many = questions_with_sets(image, question, given, grounded, checked.form, name)
        return self._answer(questions, are_many, stream, checked)

    def chat(self, image: ImageInput) -> GroundedChat:
        """Begin a conversation about an image. The model looks at it now, and never again.

        Args:
            image (PIL image, array, tensor, path or URL): the image.

        Returns:
            `GroundedChat`: `ask` it questions, with new regions each time.

        Raises:
            ValueError: not one image, or a model that cannot continue a conversation.

        Example:

        ```python
        >>> from transformers_groma import ImageGroundingPipeline
        >>> from transformers_groma.shapes.scenes import make_scene

        >>> groma = ImageGroundingPipeline.from_pretrained("hub_configs/groma-tiny")
        >>> scene = make_scene(seed=0, split="test", index=3)
        >>> chat = groma.chat(scene.draw())
        >>> print(chat.ask("What is this?", boxes=scene.boxes_xyxy[:1]))
        A small striped red star.

        ```"""
        self._wording("chat")
        if not hasattr(self.processor, "next_turn"):
            raise ValueError(
                f"`chat` is not available: {type(self.processor).__name__} cannot continue conversations."
            )
        read, are_many = read_images(image)
        if are_many:
            raise ValueError(f"`image` is a list of {len(read)}, but a chat is about one image. Begin one for each.")

        def settings_of_question(settings: Mapping[str, Any]) -> VerbSettings:
            arguments = "`question`, `boxes`, `regions`, `grounded`, `stream`"
            return self._settings("ask", settings, BoxSettings, arguments)

        with self.device_placement():
            # A model that encodes regions of every image has these maps at hand; later turns point at other regions.
            keeps_maps = has_region_proposer(self.model)
            (perceived,) = perceive(self.model, self.processor, [read.pixels], keep_fused_maps=keeps_maps)
        return GroundedChat(self, perceived, settings_of_question)

    def _locate(
        self, verb: str, kind: str, name: str, image: Any, phrase: Any, settings: Mapping[str, Any]
    ) -> GroundedPhrase | list[GroundedPhrase]:
        checked = self._settings(verb, settings, ListSettings, f"`image`, `{name}`")
        fill = self._standard_question(verb, kind)
        questions, phrases, are_many = questions_with_phrases(image, phrase, name, lambda part: fill({"phrase": part}))
        answers = self._answer(questions, True, False, checked)

        def find(text: str, answer: GroundedText, size: ImageSize) -> GroundedPhrase:
            return located(text, answer, kind == "grounding", size if checked.masks else None)

        found = [
            [find(text, each, question.image.size) for each in answer]
            if isinstance(answer, list)
            else find(text, answer, question.image.size)
            for text, answer, question in zip(phrases, answers, questions, strict=True)
        ]
        return found if are_many else found[0]


def located(
    phrase: str, answer: GroundedText, all_of_them: bool, mask_size: ImageSize | None = None
) -> GroundedPhrase:
    """What an answer says about where a phrase is.

    Args:
        phrase (`str`): what was to be found.
        answer (`GroundedText`): of the model.
        all_of_them (`bool`): whether all regions of the answer count, or those of its first phrase: a model may go on
            about other things ("the cup, on the table").
        mask_size (`ImageSize`, *optional*): of the upright image, where the answer has masks.

    Returns:
        `GroundedPhrase`: without regions, where the answer has none; no masks are `(0, H, W)`, too.
    """
    phrases = answer.phrases if all_of_them else answer.phrases[:1]
    ids = dict.fromkeys(region_id for found in phrases for region_id in found.region_ids)
    regions = with_extent(answer.regions_with_ids(list(ids)))
    if mask_size is not None and not len(regions):
        regions = Regions([], masks=np.zeros((0, mask_size.height, mask_size.width), bool))
    return GroundedPhrase(phrase, (0, len(phrase)), regions)


__all__ = ["GroundingVerbs", "located"]
