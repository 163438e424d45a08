"""Runs the model on a batch of requests: each row ends at its own length, and others join while the rest goes on."""

import copy
import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import StoppingCriteria

from ..models.modeling_cache import cache_kwargs, cache_of
from ..models.modeling_cached_prompt import forget_prompt, recall_prompt
from ..models.modeling_compact_cache import CompactCache
from ..models.processing_inputs import pad_left
from .perception import Perception, SeenQuestion
from .request import Request
from .row_processors import RowProcessors, batch_settings, row_processors, settings_not_obeyed
from .running_rows import RunningRows
from .sampling import RowSampling
from .step_states import StepStates

logger = logging.getLogger(__name__)

# Where more wait than fit in, a batch pauses for them when half of its places are free: a pause costs some steps, and
# prompts that are read together cost less than one by one. Measured with benchmarks/load_test.py.
_JOINING_SHARE = 2


class BatchRunner:
    """What the model's thread does with a batch.

    Answers differ in length, and a batch that runs until its longest has ended computes mostly rows that have ended.
    So a batch pauses after a step when half of its rows have ended, or when some wait that fit in: the ended leave,
    the prompts of the others are read together, and all go on from their caches, see [`RunningRows`]. (With a language
    model that keeps no plain cache of keys and values, a batch runs to its end.)

    Args:
        model (`PreTrainedModel`): in evaluation mode.
        processor (`ProcessorMixin`): of the model; for this thread alone.
        max_batch_size (`int`): rows that run together.
        cached_images (`int`): perceived images that are kept, those used last.
    """

    def __init__(self, model: Any, processor: Any, max_batch_size: int, cached_images: int) -> None:
        self.model = model
        self.max_batch_size = max_batch_size
        self.processor = processor
        self.perception = Perception(model, cached_images)
        self.limit: int | None = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        self.prompt_tokens = self.generated_tokens = 0
        self._own_settings = copy.deepcopy(model.generation_config)
        self._generation_config = batch_settings(self._own_settings)
        if ignored := settings_not_obeyed(self._own_settings):
            logger.warning(
                "The model's generation_config has %s, which the engine does not obey: each answer is one row, ended "
                "by an end token or its `max_new_tokens`.",
                ", ".join(f"{name}={value!r}" for name, value in ignored.items()),
            )
        ends = self._generation_config.eos_token_id
        self._ends = set(ends if isinstance(ends, list) else [ends])

    def can_join(self, batch: Sequence[Request], request: Request) -> bool:
        """Whether a request fits into a batch: no row may run over the model's last position until all have ended."""
        if self.limit is None:
            return True
        rows = [row for row in (*batch, request) if row.sampling is not None]
        longest = max((row.prompt_tokens + len(row.ids) for row in rows), default=0)
        return longest + max((_tokens_left(row) for row in rows), default=0) <= self.limit

    # Not `inference_mode`: callers could not change tensors of their answers.
    @torch.no_grad()
    def run(
        self,
        requests: Sequence[Request],
        num_waiting: Callable[[], int],
        take_more: Callable[[list[Request]], list[Request]],
    ) -> None:
        """Answer requests, and those that come meanwhile; each ends as soon as it has its answer.

        Args:
            requests (`Sequence[Request]`): the first ones.
            num_waiting (`Callable`): how many others wait.
            take_more (`Callable`): takes those of them that fit beside the running ones, the oldest first.
        """
        rows = self._begin(requests)
        # Once nobody could join although somebody waited, those that run end first: the oldest must not wait forever.
        may_join = rows is not None and rows.can_change
        while rows is not None:
            self._continue(rows, num_waiting if may_join else lambda: 0)
            alive = [row for row, request in enumerate(rows.requests) if not request.is_ended]
            if not alive:
                return
            rows.keep(alive)
            if may_join and num_waiting() > 0:
                others = take_more(rows.requests)
                may_join = len(others) > 0
                begun = self._begin(others) if others else None
                if begun is not None:
                    rows.join(begun)

    def _begin(self, requests: Iterable[Request]) -> RunningRows | None:
        """Answer what needs no language model, and write the first token of all others; `None` if none is left."""
        rows = self.perception.see(requests, self.processor)
        if not rows:
            return None
        requests = [row.request for row in rows]
        for row in rows:
            longest = row.request.sampling.max_new_tokens
            row.request.use(row_processors(self.model, self._own_settings, row.prompt.input_ids, longest))
        self.prompt_tokens += sum(request.prompt_tokens for request in requests)
        inputs = self._inputs(rows)
        output = self._generate(requests, 1, lambda: False, **inputs)
        cache = cache_of(output)
        # The prompt that is kept with the cache knows which region slots are off. From now on there is nothing left
        # of images: what the rows read is in the cache, and they go on as text.
        prompt = recall_prompt(cache)
        mask = inputs["attention_mask"] if prompt is None else prompt.attention_mask.long()
        forget_prompt(cache)
        ids = output.sequences
        if isinstance(cache, CompactCache):
            # Rows that come and go are cut and joined by the columns of their cache.
            ids, mask = cache.pack(ids), cache.pack(mask)
            cache.forget_tokens()
        begun = RunningRows(requests, ids, _with_columns_of_ones(mask, 1), cache)
        alive = [row for row, request in enumerate(requests) if not request.is_ended]
        if not alive:
            return None
        if begun.can_change:
            begun.keep(alive)
        return begun

    def _continue(self, rows: RunningRows, num_waiting: Callable[[], int]) -> None:
        """Go on with rows until all have ended, or until it is worth while to let some leave or others join."""
        size = len(rows.requests)
        enough = max(1, self.max_batch_size // _JOINING_SHARE)

        def should_pause() -> bool:
            alive = sum(not request.is_ended for request in rows.requests)
            if alive == 0 or not rows.can_change:
                return False
            waiting = num_waiting()
            return 2 * alive <= size or (waiting > 0 and self.max_batch_size - alive >= min(waiting, enough))

        output = self._generate(
            rows.requests,
            max(_tokens_left(request) for request in rows.requests),
            should_pause,
            input_ids=rows.input_ids,
            attention_mask=rows.attention_mask,
            **cache_kwargs(rows.cache),
        )
        written = output.sequences.shape[1] - rows.input_ids.shape[1]
        rows.input_ids = output.sequences
        rows.attention_mask = _with_columns_of_ones(rows.attention_mask, written)
        rows.cache = cache_of(output)

    def _generate(
        self, requests: Sequence[Request], max_new_tokens: int, should_pause: Callable[[], bool], **inputs: Any
    ) -> Any:
        """Write up to this many tokens of each answer, and stop all rows where `should_pause` says so after a step."""
        config = copy.deepcopy(self._generation_config)
        config.max_new_tokens = max_new_tokens
        sampling = RowSampling([request.sampling for request in requests], [request.random for request in requests])
        states = None if self.perception.segment_token is None else StepStates(self.model)
        settings = {} if states is None else {"decode_masks": False}
        # `generate` takes from the model what a call does not set.
        before, self.model.generation_config = self.model.generation_config, self._generation_config
        try:
            with states or nullcontext():
                return self.model.generate(
                    **inputs,
                    **settings,
                    generation_config=config,
                    logits_processor=[RowProcessors(requests), sampling],
                    stopping_criteria=[_Steps(requests, states, self._add, should_pause)],
                )
        finally:
            self.model.generation_config = before

    def _inputs(self, rows: Sequence[SeenQuestion]) -> dict[str, Any]:
        """What `generate` takes."""
        padded = pad_left([row.prompt.input_ids.tolist() for row in rows], self._generation_config.pad_token_id)
        inputs: dict[str, Any] = {name: value.to(self.model.device) for name, value in padded.items()}
        features = self.perception.features_of(rows)
        if features is not None:
            inputs["mm_encoder_outputs"] = {"image": features}
        return inputs

    def _add(self, request: Request, token_id: int, state: Tensor | None) -> None:
        """Add an id to an answer, and the state that predicted it; end the answer if it is the last."""
        regions = request.regions
        self.generated_tokens += 1
        request.add(token_id)
        if token_id == self.perception.segment_token:
            request.segment_states.append(state.clone())  # the state of one row, and not of the whole step
        is_stop = token_id in self._ends
        if regions is not None and (is_stop or len(request.ids) >= request.sampling.max_new_tokens):
            reason: Literal["stop", "length"] = "stop" if is_stop else "length"
            self.perception.end(self.processor, request, regions, reason)


class _Steps(StoppingCriteria):
    """Hands on the new token of each row after a step; stops rows that have ended, and all rows for a pause.

    A streamer would get the tokens only after it was decided which rows go on.
    """

    def __init__(
        self,
        requests: Sequence[Request],
        states: StepStates | None,
        add: Callable[[Request, int, Tensor | None], None],
        should_pause: Callable[[], bool],
    ) -> None:
        self.requests, self.states, self.add, self.should_pause = requests, states, add, should_pause
        self._is_over = False

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        # Where the library decides a step late (on mps), it makes one step more and takes it back.
        if not self._is_over:
            last = [None] * len(self.requests) if self.states is None else self.states.last
            for request, token_id, state in zip(self.requests, input_ids[:, -1].tolist(), last, strict=True):
                if not request.is_ended:
                    self.add(request, token_id, state)
            self._is_over = self.should_pause() or all(request.is_ended for request in self.requests)
        return torch.tensor([self._is_over or request.is_ended for request in self.requests], device=input_ids.device)


def _tokens_left(request: Request) -> int:
    """How many tokens a request may still get."""
    return request.sampling.max_new_tokens - len(request.ids)


def _with_columns_of_ones(mask: Tensor, columns: int) -> Tensor:
    return torch.cat([mask, mask.new_ones(len(mask), columns)], dim=1)


__all__ = ["BatchRunner"]
