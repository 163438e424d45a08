"""Which model annotates, how it is loaded, and what tells it from others."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ..data.provenance import digest_of, sampled_digest
from ..loading import load_model, load_weights, usable_device
from ..loading_options import AS_SAVED, LoadingOptions
from ..model_files import model_files
from .annotator import Annotator
from .tasks import AnnotationTasks


@dataclass(frozen=True)
class AnnotatingModel:
    """A model that is loaded where it is needed: here, or by each actor.

    Args:
        model (`str`): folder or Hub name.
        tasks (`AnnotationTasks`): what it is asked.
        batch_size (`int`): images and questions that go through it together.
        generate_kwargs (`dict`): how answers are generated.
        device (`str`, *optional*), options (`LoadingOptions`): where and how it is loaded, as for [`load_model`].
    """

    model: str
    tasks: AnnotationTasks
    batch_size: int
    generate_kwargs: dict[str, Any] = field(default_factory=dict)
    device: str | None = None
    options: LoadingOptions = AS_SAVED

    def load(self) -> Annotator:
        """Load it.

        Raises:
            OSError: no such model.
            ValueError: it cannot do what it is asked.
        """
        if self.device is not None:
            usable_device(self.device, "--device")  # an actor of Ray may have others than this machine
        # For proposals alone the language model is most of the memory, and never used.
        load = self._whole_model if self.tasks.needs_language_model else self._detector
        model, processor = load()
        return Annotator(model, processor, self.tasks, self.batch_size, self.generate_kwargs)

    def _whole_model(self) -> tuple[Any, Any]:
        return load_model(self.model, self.device, self.options)

    def _detector(self) -> tuple[Any, Any]:
        from transformers import AutoImageProcessor

        from ..models.groma.modeling_groma_detector import GromaForRegionProposal

        detector = load_weights(GromaForRegionProposal, self.model, self.device, self.options.without_language_model())
        return detector, SimpleNamespace(
            image_processor=AutoImageProcessor.from_pretrained(self.model, revision=self.options.revision)
        )


def model_fingerprint(model: str, revision: str | None = None) -> str:
    """What tells a model from others, without loading it.

    Args:
        model (`str`): folder or Hub name.
        revision (`str`, *optional*): branch, tag or commit of a model on the Hub.

    Returns:
        `str`: of a folder a digest of its files, so that copies are the same; of a model of the Hub its name and,
        where it is known, its commit.
    """
    if os.path.isdir(model):
        return digest_of([[path.name, sampled_digest(path)] for path in model_files(model)])
    from transformers import PreTrainedConfig

    _, rest = PreTrainedConfig.get_config_dict(model, revision=revision)
    return f"{model} {rest.get('_commit_hash', '')}".strip()


def model_label(model: str) -> str:
    """How people name a model: the name of its folder, or its name on the Hub."""
    return Path(model).resolve().name if os.path.isdir(model) else model


__all__ = ["AnnotatingModel", "model_fingerprint", "model_label"]
