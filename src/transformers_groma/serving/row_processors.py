"""A model's own generation settings (penalties, forced and suppressed tokens), for each row as if it were alone.

`generate` counts from the start of a call and over all columns of a batch. Rows of the engine are padded, begin at
different times and go on in other calls, so each has processors of its own, which see its own tokens alone.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from .request import Request

# What `generate` needs of a model's settings besides those that processors obey.
_KEPT = ("bos_token_id", "eos_token_id", "pad_token_id", "prefill_chunk_size", "compile_config", "disable_compile")
# Settings that change answers in other ways, with the values that change nothing.
_NOT_OBEYED: dict[str, tuple[Any, ...]] = {
    "num_beams": (None, 1),
    "penalty_alpha": (None, 0),
    "dola_layers": (None,),
    "stop_strings": (None, [], ""),
    "max_time": (None,),
}
# Settings that change the scores of tokens, with the values that change nothing.
_CHANGES_SCORES: dict[str, tuple[Any, ...]] = {
    "repetition_penalty": (None, 1),
    "encoder_repetition_penalty": (None, 1),
    "no_repeat_ngram_size": (None, 0),
    "encoder_no_repeat_ngram_size": (None, 0),
    "bad_words_ids": (None, []),
    "min_length": (None, 0),
    "min_new_tokens": (None, 0),
    "forced_bos_token_id": (None,),
    "forced_eos_token_id": (None,),
    "exponential_decay_length_penalty": (None,),
    "suppress_tokens": (None, []),
    "begin_suppress_tokens": (None, []),
    "sequence_bias": (None, {}),
    "guidance_scale": (None, 1),
    "watermarking_config": (None,),
}


class RowProcessors(LogitsProcessor):
    """Applies the processors of each row, for `generate(logits_processor=[…])`.

    Args:
        requests (`Sequence[Request]`): one for each row, whose tokens are the last columns of its row.
    """

    def __init__(self, requests: Sequence[Request]) -> None:
        self.requests = requests

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores `(B, vocab_size)` as the settings of the model have them."""
        changed: Tensor | None = None
        for row, request in enumerate(self.requests):
            processors = request.processors
            if not processors:
                continue
            if changed is None:
                changed = scores.clone()
            length = request.prompt_tokens + len(request.ids)
            changed[row] = processors(input_ids[row : row + 1, -length:], scores[row : row + 1])[0]
        return scores if changed is None else changed


def row_processors(
    model: Any, settings: GenerationConfig, prompt_ids: Tensor, max_new_tokens: int
) -> LogitsProcessorList:
    """The processors that `generate` would use for one prompt alone, without sampling.

    Args:
        model (`PreTrainedModel`): whose answer it is.
        settings (`GenerationConfig`): of the model.
        prompt_ids (`Tensor` of shape `(L,)`): ids of the prompt, without padding.
        max_new_tokens (`int`): longest answer.

    Returns:
        `LogitsProcessorList`: empty for most models.
    """
    settings = copy.deepcopy(settings)
    prompt_ids = prompt_ids[None].to(model.device)
    # A token that is forced at the end comes at the end of this answer.
    settings.update(do_sample=False, use_cache=True, max_length=prompt_ids.shape[1] + max_new_tokens)
    # The library's own list, in its own order: what it makes of settings changes from version to version.
    model._prepare_special_tokens(settings, kwargs_has_attention_mask=True, device=model.device)
    return model._get_logits_processor(
        settings,
        input_ids_seq_length=prompt_ids.shape[1],
        encoder_input_ids=prompt_ids,
        logits_processor=LogitsProcessorList(),
        device=model.device,
    )


def batch_settings(settings: GenerationConfig) -> GenerationConfig:
    """Generation settings for batches of any requests: greedy, one row for each, which ends by itself.

    All else is done row by row, by [`RowProcessors`] and `RowSampling`. The model must have these settings too while
    it generates, as `generate` takes from the model what a call does not set.

    Args:
        settings (`GenerationConfig`): of the model; not changed.
    """
    kept = {name: copy.deepcopy(getattr(settings, name, None)) for name in _KEPT}
    return GenerationConfig(**kept, do_sample=False, num_beams=1, use_cache=True, return_dict_in_generate=True)


def settings_not_obeyed(settings: GenerationConfig) -> dict[str, Any]:
    """Settings of a model that would change its answers, and that batches cannot obey.

    Example:
    >>> settings_not_obeyed(GenerationConfig(num_beams=4, repetition_penalty=1.2))
    {'num_beams': 4}
    """
    return _differing(settings, _NOT_OBEYED)


def score_settings(settings: GenerationConfig) -> dict[str, Any]:
    """Settings of a model that change the scores of tokens, as [`row_processors`] obey them.

    Example:
    >>> score_settings(GenerationConfig(num_beams=4, repetition_penalty=1.2, min_length=0))
    {'repetition_penalty': 1.2}
    """
    return _differing(settings, _CHANGES_SCORES)


def _differing(settings: GenerationConfig, neutral: Mapping[str, tuple[Any, ...]]) -> dict[str, Any]:
    values = {name: getattr(settings, name, None) for name in neutral}
    return {name: value for name, value in values.items() if value not in neutral[name]}


__all__ = ["RowProcessors", "batch_settings", "row_processors", "score_settings", "settings_not_obeyed"]
