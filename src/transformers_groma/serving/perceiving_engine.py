"""The engine whose words are written by a language server: it looks at images here, and needs no language model."""

import asyncio
import copy
import logging
from contextlib import aclosing
from os import PathLike
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from ..loading_options import AS_SAVED, LoadingOptions
from ..perceiver_loading import load_perceiver
from .answering_engine import AnsweringEngine, check_engine_settings
from .answers import LanguageServerError, ModelFailedError
from .checked_language_server import CheckedLanguageServer, Probe
from .language_server import LanguageServer, encode_prompt
from .processor_threads import ProcessorThreads
from .prompt_runner import PromptRunner
from .request import Request
from .row_processors import score_settings, settings_not_obeyed
from .sampling import Sampling
from .words_thread import WordsThread

logger = logging.getLogger(__name__)

# What vLLM takes.
_SEEDS = range(-(2**63), 2**63)
_PROBE_TEXT = "A probe: which of these two prompts did you read?"


class PerceivingEngine(AnsweringEngine):
    """Answers as `Engine` does, with words of a language server that has the model's language model alone.

    Images are looked at here, unused region slots are dropped, and the prompt goes to the server as embeddings; of its
    answer come the ids of tokens, from which everything else follows as in `Engine`: phrases, regions, masks. Greedy
    answers are the same, but for rounding. Samples differ from those of `Engine`, as each has random numbers of its
    own; a seed repeats them.

    Args:
        model (`GromaPerceiver`): the perceiving parts, on their device.
        processor (`ProcessorMixin`): of the model; copied.
        server (`LanguageServer`): has what `groma export-lm` wrote of the model. From now on it is the engine's.
        max_batch_size (`int`): images that are looked at together.
        max_wait_ms (`float`), max_waiting (`int`), cached_images (`int`): as for `Engine`.
        max_running (`int`): requests that the language server answers at a time; the next one gets a `QueueFullError`.
        generation_config (`GenerationConfig`, *optional*): of the model; the tokens that end its answers are taken
            from it.

    Raises:
        ValueError: a setting that is out of range, or a generation setting that a language server cannot obey.

    Example:
    ```python
    server = LanguageServer("http://127.0.0.1:8001/v1")
    async with PerceivingEngine.from_pretrained("groma-7b", server) as engine:
        print((await engine.answer(conversation)).grounded.text)
    ```"""

    def __init__(
        self,
        model: Any,
        processor: Any,
        server: LanguageServer,
        *,
        max_batch_size: int = 8,
        max_wait_ms: float = 20.0,
        max_waiting: int = 64,
        cached_images: int = 32,
        max_running: int = 256,
        generation_config: GenerationConfig | None = None,
    ) -> None:
        check_engine_settings(max_batch_size, max_wait_ms, max_waiting, cached_images)
        if not isinstance(max_running, int) or isinstance(max_running, bool) or max_running < 1:
            raise ValueError(f"`max_running` must be a number from 1, got {max_running!r}.")
        settings = generation_config or GenerationConfig.from_model_config(model.config)
        self._ends = _checked_ends(settings)
        model = model.eval()
        runner = PromptRunner(model, copy.deepcopy(processor), cached_images, self._begin_words)
        self._prompts = runner
        self._server = CheckedLanguageServer(server, _probe(model, processor), runner.limit_to)
        self._finishing = ProcessorThreads(processor, 1, "groma-finish")
        self._words = WordsThread()
        self._watching = self._words.submit(self._server.watch())
        super().__init__(model, processor, runner, max_batch_size, max_wait_ms, max_waiting, max_running)

    @classmethod
    def from_pretrained(
        cls,
        model: str | PathLike[str],
        server: LanguageServer,
        *,
        device: Any = None,
        options: LoadingOptions = AS_SAVED,
        **settings: Any,
    ) -> "PerceivingEngine":
        """Load the perceiving parts of a model into a new engine; its language model is not loaded.

        Args:
            model (`str` or path): folder or Hub name of a whole Groma.
            server (`LanguageServer`): writes the words.
            device (`str` or `torch.device`, *optional*): the best one available by default.
            options (`LoadingOptions`): dtype and attention; by default the model is loaded as it was saved.
            **settings: as for `PerceivingEngine`.

        Returns:
            `PerceivingEngine`

        Raises:
            ValueError: another kind of model, an adapter, or a setting that is out of range.
            OSError: no such folder or model.
        """
        perceiver, processor, generation_config = load_perceiver(model, device, options)
        return cls(perceiver, processor, server, generation_config=generation_config, **settings)

    def connect(self) -> None:
        """Check the language server now, instead of with the first request; blocks.

        Raises:
            LanguageServerError: it cannot be reached (`status` 503), or it is not the right one.
        """
        self._words.submit(self._server.ready()).result()

    def _begin_words(self, request: Request, prompt: Tensor) -> None:
        self._words.start(request, self._write(request, prompt))

    async def _write(self, request: Request, prompt: Tensor) -> None:
        """Have the words of a request written, and end it."""
        regions = request.regions
        if regions is None:  # given up
            return
        try:
            encoded = await asyncio.to_thread(encode_prompt, prompt)
            del prompt
            reason = None
            async with aclosing(self._server.write(encoded, request.sampling, self._ends)) as pieces:
                async for ids, ended in pieces:
                    for token_id in ids:
                        request.add(token_id)
                    self._prompts.generated_tokens += len(ids)
                    reason = ended or reason
            is_stop = reason == "stop" or (len(request.ids) > 0 and request.ids[-1] in self._ends)
            await self._finishing.run(self._prompts.end, request, regions, "stop" if is_stop else "length")
        except LanguageServerError as error:
            request.fail(error)
        except Exception:
            logger.exception("A request failed after its words were asked for.")
            request.fail(ModelFailedError("The answer could not be completed. Ask again."))

    def _question(self, sampling: Sampling, masks: bool) -> Request:
        if isinstance(sampling, Sampling) and sampling.seed is not None and sampling.seed not in _SEEDS:
            raise ValueError(f"`seed` must be below 2**63 for a language server, got {sampling.seed}.")
        return super()._question(sampling, masks)

    def _on_end(self, request: Request, result: Any, error: Exception | None) -> None:
        super()._on_end(request, result, error)
        if result is None:
            self._words.stop(request)

    def _language_server_state(self) -> str:
        return self._server.state

    def _close(self, timeout: float | None) -> None:
        super()._close(timeout)
        self._watching.cancel()
        self._words.close(self._server.server.aclose)
        self._finishing.shutdown()


def _checked_ends(settings: GenerationConfig) -> tuple[int, ...]:
    """The ids that end answers; refuses settings that a language server cannot obey."""
    if changed := score_settings(settings):
        named = ", ".join(f"{name}={value!r}" for name, value in changed.items())
        raise ValueError(
            f"The model's generation_config has {named}, which a language server cannot apply to a prompt of "
            "embeddings. Remove it, or serve the whole model without a language server."
        )
    if ignored := settings_not_obeyed(settings):
        named = ", ".join(f"{name}={value!r}" for name, value in ignored.items())
        logger.warning("The model's generation_config has %s, which the engine does not obey.", named)
    ends = settings.eos_token_id
    return tuple(ends) if isinstance(ends, list) else () if ends is None else (ends,)


@torch.no_grad()
def _probe(model: Any, processor: Any) -> Probe:
    """Text, and the newest token of the vocabulary, as ids and as embeddings."""
    vocab_size = model.get_input_embeddings().weight.shape[0]
    ids = [*processor.tokenizer(_PROBE_TEXT)["input_ids"], vocab_size - 1]
    tokens = torch.tensor([ids], device=model.device)
    (prompt,) = model.embed_prompt(tokens, torch.ones_like(tokens))
    return Probe(ids, encode_prompt(prompt), vocab_size)


__all__ = ["PerceivingEngine"]
