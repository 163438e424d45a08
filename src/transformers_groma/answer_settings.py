"""How a verb answers: the settings of its generation and of its boxes, checked before the model runs."""

import copy
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypedDict

from transformers import GenerationConfig, GenerationMixin

from .boxes import BOX_FORMATS, BoxFormat
from .image_inputs import shortened

# The library takes anything for these, and then fails deep inside or leaves them out.
_WHOLE_NUMBERS = {"max_new_tokens": 1, "min_new_tokens": 0, "num_beams": 1, "num_return_sequences": 1, "top_k": 0}
_FLAGS = ("do_sample", "use_cache")
_SHARES = ("top_p", "min_p")
_LISTS = ("stopping_criteria", "logits_processor")


class AnswerSettings(TypedDict, total=False):
    """Keyword arguments of every verb.

    Attributes:
        max_new_tokens (`int`): longest answer; 256 by default.
        generate_kwargs (`dict`): everything else that `model.generate` takes, such as `do_sample`.
        masks (`bool`): whether the regions that phrases name, and those of the question, should have masks. It needs a
            model with a mask decoder. Phrases of a GLaMM have them in any case.
    """

    max_new_tokens: int
    generate_kwargs: Mapping[str, Any]
    masks: bool


class ListSettings(AnswerSettings, total=False):
    """Keyword arguments of a verb that also takes lists.

    Attributes:
        batch_size (`int`): how many questions of a list go through the model together; that of the pipeline, or 1.
    """

    batch_size: int


class BoxSettings(AnswerSettings, total=False):
    """Keyword arguments of a verb that takes regions.

    Attributes:
        box_format (`str`): `"xyxy"` (default), `"xywh"` or `"cxcywh"`, of boxes that are given as numbers; `Regions`
            are always `xyxy` in absolute pixels.
        normalized (`bool`): whether boxes and points that are given as numbers are fractions of the image size.
    """

    box_format: BoxFormat
    normalized: bool


class BoxListSettings(ListSettings, BoxSettings, total=False):
    """Keyword arguments of a verb that takes regions, and lists."""


class SegmentSettings(TypedDict, total=False):
    """Keyword arguments of `segment`.

    Attributes:
        max_new_tokens (`int`), generate_kwargs (`dict`): of phrases, which the language model locates.
        box_format (`str`), normalized (`bool`): of regions.
        batch_size (`int`): how many entries of a list go through the model together.
    """

    max_new_tokens: int
    generate_kwargs: Mapping[str, Any]
    box_format: BoxFormat
    normalized: bool
    batch_size: int


@dataclass(frozen=True)
class RegionFormat:
    """How boxes and points are given.

    Args:
        box_format (`str`): `"xyxy"`, `"xywh"` or `"cxcywh"`.
        normalized (`bool`): whether they are fractions of the image size instead of pixels.
    """

    box_format: BoxFormat = "xyxy"
    normalized: bool = False


@dataclass(frozen=True)
class Generation:
    """Settings of generation, for one model.

    Args:
        kwargs (`dict`): for `model.generate`.
        defaults (`GenerationConfig`): of the model, for what `kwargs` do not say.
    """

    kwargs: Mapping[str, Any]
    defaults: GenerationConfig

    def setting(self, name: str) -> Any:
        """A setting as `generate` will use it; `None` if nothing says it."""
        configs = (self.kwargs.get("generation_config"), self.defaults)
        values = [self.kwargs.get(name), *(getattr(config, name, None) for config in configs)]
        return next((value for value in values if value is not None), None)

    @property
    def max_new_tokens(self) -> int:
        """The longest answer; 0 where the `max_length` of a `generation_config` bounds prompt and answer together."""
        return self.setting("max_new_tokens") or 0

    def check(self) -> None:
        """Refuse wrong settings, as `generate` would once the images have been looked at, and those it would ignore.

        Raises:
            ValueError: a value that its setting does not take; settings that do not fit each other, in the words of
                the library.
        """
        self._check_values()
        config = copy.deepcopy(self.kwargs.get("generation_config") or self.defaults)
        fields = {name: value for name, value in self.kwargs.items() if name in vars(config)}
        try:
            config.update(**fields)
        except (ValueError, TypeError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"`generate_kwargs` are not settings that fit each other: {reason}") from error

    def _check_values(self) -> None:
        for name, least in _WHOLE_NUMBERS.items():
            value = self.setting(name)
            if value is not None and not _is_whole_number(value, least):
                raise ValueError(
                    f"`{name}` must be a {'positive' if least else 'non-negative'} integer, got {shortened(value)}."
                )
        check_flags(**{name: value for name in _FLAGS if (value := self.setting(name)) is not None})
        if not self.setting("do_sample"):
            return
        for name in _SHARES:
            value = self.setting(name)
            if value is not None and not (_is_number(value) and 0 <= value <= 1):
                raise ValueError(f"`{name}` must be a number from 0 to 1, got {shortened(value)}.")
        temperature = self.setting("temperature")
        if temperature is not None and not (_is_number(temperature) and temperature > 0):
            raise ValueError(
                f"`temperature` must be a positive number, got {shortened(temperature)}. For the most likely answer "
                "leave it and `do_sample` out."
            )

    def check_one_answer(self, what: str) -> None:
        """Refuse settings that do not give a single answer, token by token.

        Args:
            what (`str`): what needs that, for the error.

        Raises:
            ValueError: beams, several returned sequences, or assisted decoding; a value that its setting does not
                take.
        """
        self._check_values()
        for name in ("num_return_sequences", "num_beams"):
            if (self.setting(name) or 1) > 1:
                raise ValueError(
                    f"{what} gives one answer, token by token, but `{name}` is {self.setting(name)}. Leave it out."
                )
        for name in ("assistant_model", "prompt_lookup_num_tokens"):
            if self.setting(name) is not None:
                raise ValueError(f"{what} does not work with assisted decoding. Leave `{name}` out.")


@dataclass(frozen=True)
class VerbSettings:
    """The checked keyword arguments of a verb, with the pipeline's own where the call says nothing.

    Args:
        generation (`Generation`): how answers are generated.
        batch_size (`int`): how many questions go through the model together.
        form (`RegionFormat`): how boxes and points are given.
        masks (`bool`): whether answers get masks.
    """

    generation: Generation
    batch_size: int
    form: RegionFormat
    masks: bool


def check_names(verb: str, settings: Mapping[str, Any], known: type, arguments: str) -> None:
    """Refuse keyword arguments that a verb does not take.

    Args:
        verb (`str`): its name.
        settings (`Mapping`): keyword arguments.
        known (`type`): the `TypedDict` of those that it takes.
        arguments (`str`): its other arguments, for the error.

    Raises:
        TypeError: an unknown one.
    """
    names = list(known.__annotations__)
    if unknown := [name for name in settings if name not in names]:
        raise TypeError(
            f"`{verb}` does not take {', '.join(f'`{name}`' for name in unknown)}. It takes {arguments}, "
            f"{', '.join(f'`{name}`' for name in names)}."
        )


def check_flags(**flags: Any) -> None:
    """Refuse a flag, by its name, that is not `True` or `False`: "no" would count as yes."""
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise ValueError(f"`{name}` must be True or False, got {shortened(value)}.")


def check_values(settings: Mapping[str, Any]) -> None:
    """Refuse values of settings that would fail deep inside, or be ignored.

    Args:
        settings (`Mapping`): keyword arguments of a verb; `None` is not given.

    Raises:
        ValueError: the first wrong one.
    """
    for name in ("max_new_tokens", "batch_size"):
        value = settings.get(name)
        if value is not None and not _is_whole_number(value, 1):
            raise ValueError(f"`{name}` must be a positive integer, got {shortened(value)}.")
    check_flags(**{name: settings[name] for name in ("normalized", "masks") if settings.get(name) is not None})
    box_format = settings.get("box_format")
    if box_format is not None and (not isinstance(box_format, str) or box_format not in BOX_FORMATS):
        raise ValueError(
            f"`box_format` must be one of {', '.join(map(repr, BOX_FORMATS))}, got {shortened(box_format)}."
        )
    given = settings.get("generate_kwargs")
    if given is None:
        return
    if not isinstance(given, Mapping):
        raise ValueError(f"`generate_kwargs` must be a dict, as in {{'do_sample': True}}, got {shortened(given)}.")
    for name in given:
        if name not in _generation_names():
            raise ValueError(
                f"`generate_kwargs` has {name!r}, which is not a setting of generation, or one that the verb sets "
                "itself. Pass settings such as 'do_sample' or 'temperature'; `stream=True` streams the answer."
            )
    if given.get("max_length") is not None:
        raise ValueError(
            "`generate_kwargs` has 'max_length', which counts the question and its image, too, and is ignored beside "
            "`max_new_tokens`. Pass `max_new_tokens`."
        )
    for name in _LISTS:
        if given.get(name) is not None and not isinstance(given[name], (list, tuple)):
            raise ValueError(f"`{name}` must be a list, got {shortened(given[name])}.")
    config = given.get("generation_config")
    if config is not None and not isinstance(config, GenerationConfig):
        raise ValueError(f"`generation_config` must be a `GenerationConfig`, got {shortened(config)}.")


def _is_whole_number(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _generation_names() -> set[str]:
    """Everything that `generate` takes but for what a verb passes itself."""
    parameters = set(inspect.signature(GenerationMixin.generate).parameters)
    parameters -= {"self", "inputs", "kwargs", "streamer"}
    fields = {name for name in vars(GenerationConfig()) if not name.startswith("_")}
    # `stop_strings` need the tokenizer, which `generate` takes without naming it.
    return (parameters | fields | {"tokenizer", "assistant_tokenizer"}) - {
        "return_dict_in_generate",
        "transformers_version",
    }


__all__ = [
    "AnswerSettings",
    "BoxListSettings",
    "BoxSettings",
    "Generation",
    "ListSettings",
    "RegionFormat",
    "SegmentSettings",
    "VerbSettings",
    "check_flags",
    "check_names",
    "check_values",
]
