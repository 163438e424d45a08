"""The engine: answers many people's questions about images with one model, in batches, from any event loop."""

import copy
from os import PathLike
from typing import Any

from ..loading import load_config, load_model
from ..loading_options import AS_SAVED, LoadingOptions
from ..model_files import ANSWERING_MODELS
from .answering_engine import AnsweringEngine, check_engine_settings
from .answers import (
    EngineAnswer,
    EngineClosedError,
    EngineRegion,
    EngineStatus,
    ModelFailedError,
    QueueFullError,
)
from .batch_runner import BatchRunner
from .sampling import Sampling


class Engine(AnsweringEngine):
    """Answers questions about images, several at a time.

    Requests may come from any event loop, also from several. One thread runs the model, on batches of what waits; an
    answer does not depend on who shares its batch, but for the last digits of floating-point numbers, which differ
    between batch sizes and can turn a choice between two almost equally likely tokens. Perceived images are kept, so
    that following questions about one cost no second look.

    Args:
        model (`PreTrainedModel`): one that answers with regions, as `GromaForConditionalGeneration`, on its device;
            put into evaluation mode. From now on it is the engine's.
        processor (`ProcessorMixin`): of the model; copied.
        max_batch_size (`int`): requests that the model works on together; others join as soon as some have ended.
        max_wait_ms (`float`): how long the first request of a batch waits for others where several came together
            lately; see [`WaitingRequests`].
        max_waiting (`int`): requests that may wait; the next one gets a `QueueFullError`.
        cached_images (`int`): perceived images that are kept, those used last. For each a full-size Groma needs
            about 16 MB, about 22 MB with a mask decoder, and a full-size GLaMM about 31 MB.

    Raises:
        ValueError: a setting that is out of range.

    Example:
    >>> import asyncio
    >>> from transformers_groma.shapes.scenes import make_scene
    >>> async def ask(*questions):
    ...     image = {"type": "image", "image": make_scene(seed=0, split="test", index=1).draw()}
    ...     conversations = [
    ...         [{"role": "user", "content": [image, {"type": "text", "text": question}]}] for question in questions
    ...     ]
    ...     async with Engine.from_pretrained("hub_configs/groma-tiny", device="cpu") as engine:
    ...         return await asyncio.gather(*map(engine.answer, conversations))
    >>> answers = asyncio.run(ask("How many circles are there?", "[grounding] Please describe the image in detail."))
    >>> [answer.finish_reason for answer in answers]
    ['stop', 'stop']
    >>> len(answers[1].grounded.phrases) > 1
    True
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        *,
        max_batch_size: int = 8,
        max_wait_ms: float = 20.0,
        max_waiting: int = 64,
        cached_images: int = 32,
    ) -> None:
        check_engine_settings(max_batch_size, max_wait_ms, max_waiting, cached_images)
        runner = BatchRunner(model.eval(), copy.deepcopy(processor), max_batch_size, cached_images)
        super().__init__(model, processor, runner, max_batch_size, max_wait_ms, max_waiting)

    @classmethod
    def from_pretrained(
        cls,
        model: str | PathLike[str],
        *,
        device: Any = None,
        options: LoadingOptions = AS_SAVED,
        **settings: Any,
    ) -> "Engine":
        """Load a model and its processor into a new engine.

        Args:
            model (`str` or path): folder or Hub name of a model, or the folder of an adapter.
            device (`str` or `torch.device`, *optional*): the best one available by default.
            options (`LoadingOptions`): dtype, quantization and more; by default the model is loaded as it was saved.
            **settings: as for `Engine`.

        Returns:
            `Engine`

        Raises:
            ValueError: another kind of model, or a setting that is out of range.
            OSError: no such folder, model or revision; the message says what to do.
        """
        config = load_config(model, options.revision)
        if config.model_type not in ANSWERING_MODELS:
            raise ValueError(
                f"`model` {str(model)!r} is of type {config.model_type!r}. Pass a model of type "
                f"{' or '.join(map(repr, ANSWERING_MODELS))}."
            )
        return cls(*load_model(model, device, options), **settings)


__all__ = [
    "Engine",
    "EngineAnswer",
    "EngineClosedError",
    "EngineRegion",
    "EngineStatus",
    "ModelFailedError",
    "QueueFullError",
    "Sampling",
]
