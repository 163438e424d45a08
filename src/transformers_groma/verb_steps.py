"""What the verbs of a pipeline share: checked settings, the questions that the model learned, and answering."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Unpack

from transformers.pipelines.base import Pipeline

from .answer_masks import check_mask_decoder
from .answer_settings import Generation, ListSettings, RegionFormat, VerbSettings, check_names, check_values
from .answering import answer_questions, check_length, stream_question
from .grounding import GroundedText
from .questions import QuestionWording
from .verb_inputs import ImageQuestion, text_part


class VerbSteps(Pipeline):
    """The steps that the verbs of [`GroundingVerbs`] are made of."""

    def _answer(
        self, questions: list[ImageQuestion], are_many: bool, stream: bool, settings: VerbSettings
    ) -> GroundedText | list[GroundedText] | Iterator[GroundedText]:
        if stream:
            if are_many:
                raise ValueError(
                    "`stream=True` streams one answer, but a list was given. Loop over the list, or leave `stream` "
                    "out."
                )
            settings.generation.check_one_answer("`stream=True`")
        settings.generation.check()
        check_length(self, questions, settings.generation)
        if stream:
            return stream_question(self, questions[0], settings)
        answers = answer_questions(self, questions, settings)
        return answers if are_many else answers[0]

    def _wording(self, verb: str) -> QuestionWording:
        """How the model is asked what it learned."""
        wording = getattr(self.processor, "question_wording", None)
        if wording is None or not self.model.can_generate():
            raise ValueError(
                f"`{verb}` needs a model that answers with regions, such as Groma, but this is a "
                f"{type(self.model).__name__}. Load another model."
            )
        return wording

    def _standard_question(self, verb: str, kind: str) -> Callable[[Mapping[str, Any]], list[dict[str, Any]]]:
        """What makes the parts of a question of a kind from what fills its slots."""
        wording = self._wording(verb)
        if kind not in wording.kinds:
            raise ValueError(
                f"`{verb}` asks what a {type(self.model).__name__} has not learned: its questions are "
                f"{', '.join(map(repr, wording.kinds))}. Use `ask`, or load another model."
            )
        return partial(wording.parts, kind, text_part)

    def list_settings(self, **settings: Unpack[ListSettings]) -> VerbSettings:
        """How lists of questions are answered, checked, for callers that ask them with `answer_questions`.

        Args:
            **settings: `max_new_tokens`, `generate_kwargs`, `masks` and `batch_size`, as the verbs take them.

        Returns:
            `VerbSettings`: with the pipeline's own where nothing is given.

        Raises:
            TypeError: an unknown setting.
            ValueError: bad settings, or `masks=True` with a model that has no mask decoder.
        """
        checked = self._settings("list_settings", settings, ListSettings, "nothing else")
        checked.generation.check()
        return checked

    def _settings(self, verb: str, settings: Mapping[str, Any], known: type, arguments: str) -> VerbSettings:
        """Check keyword arguments and fill in the pipeline's own."""
        self._wording(verb)
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
        masks = forward.get("masks", False)
        if masks:
            check_mask_decoder(self.model, "`masks=True`")
        return VerbSettings(Generation(kwargs, self.model.generation_config), batch_size or 1, form, masks)


__all__ = ["VerbSteps"]
