"""Fingerprints of models and datasets, so that their answers are never mixed up."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, Image
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin
from transformers.image_processing_utils import BaseImageProcessor

# Not part of the model, or settings that a run writes down by themselves.
LEFT_OUT = (
    "_name_or_path",
    "_from_model_config",
    "transformers_version",
    "dtype",
    "box_score_threshold",
    "nms_threshold",
)


def model_sha256(model: PreTrainedModel, processor: ProcessorMixin | BaseImageProcessor) -> str:
    """Fingerprint of all that decides answers: weights, configurations, chat template, tokenizer, image processing.

    Thresholds are left out, because a run writes them down by themselves.

    Args:
        model (`PreTrainedModel`): the model, on any device.
        processor (`ProcessorMixin` or image processor): the processor of the model.

    Returns:
        `str`: 64 hexadecimal digits.
    """
    config = model.config.to_dict()
    for name in LEFT_OUT:
        config.pop(name, None)
    described: dict[str, Any] = {"config": config}
    if isinstance(processor, ProcessorMixin):
        described["image_processor"] = processor.image_processor.to_dict()
        described["chat_template"] = processor.chat_template
        described["tokenizer"] = _described_tokenizer(processor.tokenizer)
    else:
        described["image_processor"] = processor.to_dict()
    if model.can_generate():
        described["generation_config"] = model.generation_config.to_dict()
        for name in LEFT_OUT:
            described["generation_config"].pop(name, None)
    digest = hashlib.sha256(json.dumps(described, sort_keys=True, default=str).encode())
    for name, weight in sorted(model.state_dict().items()):
        for key, part in _plain_tensors(name, _weight_at_hand(model, name, weight)):
            digest.update(f"{key} {part.dtype} {tuple(part.shape)}".encode())
            digest.update(part.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _weight_at_hand(model: PreTrainedModel, name: str, weight: torch.Tensor) -> torch.Tensor:
    """A weight, read from where it waits if it is offloaded."""
    if not weight.is_meta:
        return weight
    from accelerate.utils import align_module_device

    path, _, own = name.rpartition(".")
    module = model.get_submodule(path)
    with align_module_device(module):
        return getattr(module, own).detach().clone()


def _plain_tensors(name: str, weight: torch.Tensor) -> list[tuple[str, torch.Tensor]]:
    """A weight by its name; one that torchao quantized in its parts."""
    if not is_traceable_wrapper_subclass(weight):
        return [(name, weight)]
    parts, _ = weight.__tensor_flatten__()
    return [(f"{name}.{part}", getattr(weight, part)) for part in parts]


def _described_tokenizer(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """The vocabulary and all other settings that turn text into ids."""
    described = {
        "vocabulary": sorted(tokenizer.get_vocab().items()),
        "special_tokens": tokenizer.special_tokens_map,
    }
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        described["backend"] = json.loads(backend.to_str())
        for name in ("padding", "truncation"):  # of the last call
            described["backend"].pop(name, None)
    return described


def dataset_fingerprint(dataset: Dataset) -> str:
    """Fingerprint of a dataset's content, independent of its path and of its split into files.

    Args:
        dataset (`Dataset`): a dataset with an `image` column.

    Returns:
        `str`: 32 hexadecimal digits.

    Example:
    >>> from transformers_groma.shapes.rows import shapes_dataset
    >>> rows = shapes_dataset("rec", 2, seed=0, evaluation=True)
    >>> same, swapped = rows.select([0, 1]), rows.select([1, 0])
    >>> dataset_fingerprint(rows) == dataset_fingerprint(same) != dataset_fingerprint(swapped)
    True
    """
    digest = hashlib.blake2b(digest_size=16)
    for row in dataset.cast_column("image", Image(decode=False)):
        image = row.pop("image")
        digest.update(json.dumps(row, sort_keys=True).encode())
        if image is not None:
            content = image["bytes"] if image["bytes"] is not None else Path(image["path"]).read_bytes()
            digest.update(len(content).to_bytes(8, "little") + content)
    return digest.hexdigest()


__all__ = ["dataset_fingerprint", "model_sha256"]
