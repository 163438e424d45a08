"""The verbs of a pipeline: caption, describe, locate, ask and chat, without the marks of a prompt."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Unpack

from transformers.image_utils import ImageInput
from transformers.pipelines.base import Pipeline

from .answer_settings import (
    BoxListSettings,
    BoxSettings,
    Generation,
    ListSettings,
    check_flags,
    check_names,
    check_values,
)
from .answering import answer_questions, check_length, stream_question
from .grounded_chat import GroundedChat
from .grounding import GroundedPhrase, GroundedText
from .perceived_images import perceive
from .questions import fill_question
from .verb_inputs import (
    ImageQuestion,
    RegionFormat,
    paired,
    questions_with_boxes,
    questions_with_phrases,
    questions_with_regions,
    read_images,
    text_part,
)


class GroundingVerbs(Pipeline):
    """What [`ImageGroundingPipeline`] does for people who do not want to write prompts.

    Every verb takes one image or a list of images, and one or a list of what is asked about each: lists are paired
    entry by entry, single values serve all. One image with a list is looked at once. Lists are answered by lists.
    A list is read whole before the first answer; for thousands of images call the pipeline itself with a generator.

    Images are what the pipeline takes, but for dicts. A region is a box `[x1, y1, x2, y2]`, `xyxy` in absolute pixels
    of the upright image (`box_format` and `normalized` say otherwise), or `Regions` of one region, such as one of an
    answer. Control tokens (`<p>`, `<r5>`, `</s>`, …) in phrases and questions are plain text. Bad input is refused
    before the model runs.
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
                takes) and, for lists, `batch_size`.

        Returns:
            `GroundedText`, a list of these for a list, or an iterator over several. With `num_return_sequences` above
            1 a list of answers in place of each.

        Raises:
            TypeError: an unknown setting.
            ValueError: bad images or settings.

        Example:

        ```python
        >>> from transformers_groma import ImageGroundingPipeline
        >>> from transformers_groma.shapes.scenes import make_scene

        >>> groma = ImageGroundingPipeline.from_pretrained("hub_configs/groma-tiny")
        >>> groma.caption(make_scene(seed=0, split="test", index=3).draw()).text[:17]
        'The image shows a'

        ```"""
        generation, batch_size, _ = self._settings("caption", settings, ListSettings, "`image`, `brief`, `stream`")
        check_flags(brief=brief, stream=stream)
        fill = self._standard_question("caption", "grounded_caption" if brief else "grounded_description")
        entries, are_many = paired(image=read_images(image))
        questions = [ImageQuestion(entry["image"].value, fill({})) for entry in entries]
        return self._answer(questions, are_many, stream, generation, batch_size)

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
            region (array-like of shape `(4,)`, `Regions` of one region, or a list of these): the region, a box `xyxy`
                in absolute pixels of the upright image. A list for one image asks about each.
            stream (`bool`): as in `caption`.
            **settings: as in `caption`; also `box_format` and `normalized`.

        Returns:
            As `caption`. `user_region_ids` of an answer has the number of the region.

        Raises:
            TypeError: an unknown setting.
            ValueError: bad images, regions or settings; masks and points, which the model does not read.

        Example:

        ```python
        >>> from transformers_groma import ImageGroundingPipeline
        >>> from transformers_groma.shapes.scenes import make_scene

        >>> groma = ImageGroundingPipeline.from_pretrained("hub_configs/groma-tiny")
        >>> scene = make_scene(seed=0, split="test", index=3)
        >>> print(groma.describe(scene.draw(), scene.boxes_xyxy[0]))
        A small striped red star.

        ```"""
        generation, batch_size, form = self._settings(
            "describe", settings, BoxListSettings, "`image`, `region`, `stream`"
        )
        check_flags(stream=stream)
        fill = self._standard_question("describe", "region_caption")
        questions, are_many = questions_with_regions(image, region, form, lambda part: fill({"region": part}))
        return self._answer(questions, are_many, stream, generation, batch_size)

    def locate(
        self, image: ImageInput | Sequence[ImageInput], phrase: str | Sequence[str], **settings: Unpack[ListSettings]
    ) -> GroundedPhrase | list[GroundedPhrase]:
        """Find what a phrase refers to, such as "the red cup".

        Args:
            image (PIL image, array, tensor, path or URL, or a list of these): the image.
            phrase (`str` or `list[str]`): what to find, plain text. A list for one image finds each.
            **settings: as in `caption`.

        Returns:
            `GroundedPhrase`: the phrase and the regions that the model named first, mostly one; a list of these for a
            list. Where the model names no region, there is none: `boxes` has shape `(0, 4)` and the phrase is false,
            as in `if cup := groma.locate(image, "the red cup")`. A model may also name a region for what is not there.

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

    def ask(
        self,
        image: ImageInput | Sequence[ImageInput],
        question: str | Sequence[str],
        boxes: Any = None,
        *,
        grounded: bool = False,
        stream: bool = False,
        **settings: Unpack[BoxListSettings],
    ) -> GroundedText | list[GroundedText] | Iterator[GroundedText]:
        """Ask a question about an image, and about regions of it.

        Args:
            image (PIL image, array, tensor, path or URL, or a list of these): the image.
            question (`str` or `list[str]`): plain text. With a `<region>` mark for each box the marks say where the
                boxes are meant; without any mark the boxes are named at its end. A list for one image asks each.
            boxes (array-like of shape `(n, 4)`, `Regions`, a list of boxes and `Regions` of one, or a list of all
                these, one for each, *optional*): regions that the question points at, `xyxy` in absolute pixels of the
                upright image.
            grounded (`bool`): whether the phrases of the answer should be tied to regions, as `[grounding]` asks.
            stream (`bool`): as in `caption`.
            **settings: as in `caption`; also `box_format` and `normalized`.

        Returns:
            As `caption`. `user_region_ids` of an answer has the numbers of the boxes, in their order.

        Raises:
            TypeError: an unknown setting.
            ValueError: bad images, questions, boxes or settings; as many boxes as `<region>` marks, where there are
                any.

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
        generation, batch_size, form = self._settings(
            "ask", settings, BoxListSettings, "`image`, `question`, `boxes`, `grounded`, `stream`"
        )
        check_flags(grounded=grounded, stream=stream)
        questions, are_many = questions_with_boxes(image, question, boxes, grounded, form)
        return self._answer(questions, are_many, stream, generation, batch_size)

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
        self._standard_questions("chat")
        if not hasattr(self.processor, "next_turn"):
            raise ValueError(
                f"`chat` is not available: {type(self.processor).__name__} cannot continue conversations."
            )
        read, are_many = read_images(image)
        if are_many:
            raise ValueError(f"`image` is a list of {len(read)}, but a chat is about one image. Begin one for each.")

        def settings_of_question(settings: Mapping[str, Any]) -> tuple[Generation, RegionFormat]:
            arguments = "`question`, `boxes`, `grounded`, `stream`"
            generation, _, form = self._settings("ask", settings, BoxSettings, arguments)
            return generation, form

        with self.device_placement():
            (perceived,) = perceive(self.model, self.processor, [read.pixels])
        return GroundedChat(self, perceived, settings_of_question)

    def _locate(
        self, verb: str, kind: str, name: str, image: Any, phrase: Any, settings: Mapping[str, Any]
    ) -> GroundedPhrase | list[GroundedPhrase]:
        generation, batch_size, _ = self._settings(verb, settings, ListSettings, f"`image`, `{name}`")
        fill = self._standard_question(verb, kind)
        questions, phrases, are_many = questions_with_phrases(image, phrase, name, lambda part: fill({"phrase": part}))
        answers = self._answer(questions, True, False, generation, batch_size)
        found = [
            [located(text, each, kind == "grounding") for each in answer]
            if isinstance(answer, list)
            else located(text, answer, kind == "grounding")
            for text, answer in zip(phrases, answers, strict=True)
        ]
        return found if are_many else found[0]

    def _answer(
        self, questions: list[ImageQuestion], are_many: bool, stream: bool, generation: Generation, batch_size: int
    ) -> GroundedText | list[GroundedText] | Iterator[GroundedText]:
        if stream:
            if are_many:
                raise ValueError(
                    "`stream=True` streams one answer, but a list was given. Loop over the list, or leave `stream` "
                    "out."
                )
            generation.check_one_answer("`stream=True`")
        generation.check()
        check_length(self, questions, generation)
        if stream:
            return stream_question(self, questions[0], generation)
        answers = answer_questions(self, questions, generation, batch_size)
        return answers if are_many else answers[0]

    def _standard_questions(self, verb: str) -> Mapping[str, str]:
        """The questions that the model learned, by kind."""
        questions = getattr(self.processor, "standard_questions", None)
        if questions is None or not self.model.can_generate():
            raise ValueError(
                f"`{verb}` needs a model that answers with regions, such as Groma, but this is a "
                f"{type(self.model).__name__}. Load another model."
            )
        return questions

    def _standard_question(self, verb: str, kind: str) -> Callable[[Mapping[str, Any]], list[dict[str, Any]]]:
        """What makes the parts of a question of a kind from what fills its slots."""
        questions = self._standard_questions(verb)
        if kind not in questions:
            raise ValueError(
                f"`{verb}` asks what a {type(self.model).__name__} has not learned: its questions are "
                f"{', '.join(map(repr, questions))}. Use `ask`, or load another model."
            )
        return partial(fill_question, questions[kind], text_part)

    def _settings(
        self, verb: str, settings: Mapping[str, Any], known: type, arguments: str
    ) -> tuple[Generation, int, RegionFormat]:
        """Check keyword arguments and fill in the pipeline's own."""
        self._standard_questions(verb)
        check_names(verb, settings, known, arguments)
        check_values(settings)
        given = {name: value for name, value in settings.items() if value is not None}
        batch_size = given.pop("batch_size", self._batch_size)
        preprocess, forward, _ = self._sanitize_parameters(**given)
        preprocess = {**self._preprocess_params, **preprocess}
        forward = {**self._forward_params, **forward}
        # Also what the pipeline was made with, which nobody has looked at.
        check_values({**preprocess, **forward, "batch_size": batch_size})
        kwargs = self._prepare_generate_kwargs(
            dict(forward.get("generate_kwargs") or {}), return_dict_in_generate=True
        )
        form = RegionFormat(preprocess.get("box_format", "xyxy"), preprocess.get("normalized", False))
        return Generation(kwargs, self.model.generation_config), batch_size or 1, form


def located(phrase: str, answer: GroundedText, all_of_them: bool) -> GroundedPhrase:
    """What an answer says about where a phrase is.

    Args:
        phrase (`str`): what was to be found.
        answer (`GroundedText`): of the model.
        all_of_them (`bool`): whether all regions of the answer count, or those of its first phrase: a model may go on
            about other things ("the cup, on the table").

    Returns:
        `GroundedPhrase`: without regions, where the answer has none.
    """
    phrases = answer.phrases if all_of_them else answer.phrases[:1]
    ids = dict.fromkeys(region_id for found in phrases for region_id in found.region_ids)
    return GroundedPhrase(phrase, (0, len(phrase)), answer.regions.with_ids(ids))


__all__ = ["GroundingVerbs", "located"]
