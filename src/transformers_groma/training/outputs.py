"""The output folder of a training: written by one process at a time, resumed only from complete checkpoints."""

import functools
import json
import zipfile
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TypeVar

from torch.distributed.checkpoint import FileSystemReader
from transformers import Trainer, TrainingArguments
from transformers.trainer import FSDP_MODEL_NAME, OPTIMIZER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME
from transformers.trainer_utils import sort_checkpoints
from transformers.utils import logging

from .._locks import locked
from .._output_errors import naming, writing

logger = logging.get_logger(__name__)

Trained = TypeVar("Trained")

# Weights are in one of these, or in folders of FSDP or DeepSpeed.
WEIGHTS = ("model.safetensors", "adapter_model.safetensors", "pytorch_model.bin", "adapter_model.bin")
FULL_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
WEIGHTS_INDICES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
ADAPTER_CONFIG = "adapter_config.json"
# What weights of LoRA belong to, and how strong they are.
ADAPTER_SETTINGS = ("r", "lora_alpha", "target_modules", "modules_to_save")
# Files up to this size are checked byte by byte; larger ones would take long.
SMALL = 64 * 2**20
_NO_VALUES = "has no values in it"


def alone_in_its_output(train: Callable[..., Trained]) -> Callable[..., Trained]:
    """Make a stage's `train(script_args, training_args, ...)` the only training that writes its output folder.

    The first process of a training holds a lock, which the system releases if the process dies. Errors of writing name
    the folder, and a checkpoint that is named but not whole is refused before anything is loaded.

    Args:
        train (`Callable`): the `train` of a stage.

    Returns:
        `Callable`: `train`, which now also raises:

    Raises:
        OutputError: the output folder cannot be written, or another training is writing it.
        ValueError: the named checkpoint is not whole.
    """

    @functools.wraps(train)
    def alone(script_args: Any, training_args: TrainingArguments, *args: Any, **kwargs: Any) -> Trained:
        output_dir = training_args.output_dir
        with naming(output_dir):
            Path(output_dir).mkdir(parents=True, exist_ok=True)
        # The underscore keeps the lock out of pushes of the folder: `Trainer` leaves such names out.
        lock = locked(Path(output_dir, "_training.lock"), output_dir)
        with lock if training_args.process_index == 0 else nullcontext(), writing(output_dir):
            if _is_named(training_args.resume_from_checkpoint):
                last_checkpoint(output_dir, training_args.resume_from_checkpoint)
            return train(script_args, training_args, *args, **kwargs)

    return alone


def last_checkpoint(output_dir: str, resume: str | bool | None) -> str | None:
    """Find the checkpoint to resume from: the one named, or with `true` (or `auto`) the last complete one, if any.

    Args:
        output_dir (`str`): output folder of the training, with its checkpoints.
        resume (`str` or `bool`, *optional*): the argument `resume_from_checkpoint`.

    Returns:
        `str`, *optional*: folder of the checkpoint; `None` to start from the beginning.

    Raises:
        ValueError: the named checkpoint is not a folder, or not whole.
    """
    if resume in (None, False, "False", "false"):
        return None
    if _is_named(resume):
        if (fault := fault_of_checkpoint(resume)) is not None:
            raise ValueError(
                f"`resume_from_checkpoint` {resume} is not a complete checkpoint: {fault}. Name another one, or "
                "`true` for the last complete one in `output_dir`."
            )
        return resume
    folders = sort_checkpoints(output_dir)
    for folder in reversed(folders):
        if (fault := fault_of_checkpoint(folder)) is None:
            return folder
        logger.warning(f"{folder} is not a complete checkpoint: {fault}. Looking for an earlier one.")
    if folders:
        logger.warning(f"{output_dir} has no complete checkpoint: training starts from the beginning.")
    return None


def checkpoint_to_resume(trainer: Trainer) -> str | None:
    """Find the checkpoint that a trainer resumes from, and check that its LoRA is that of the trainer's model.

    `Trainer` would load weights by their names: those of another kind are left out, and those of an adapter get the
    settings of this run.

    Args:
        trainer (`Trainer`): before training, its model with LoRA or without.

    Returns:
        `str`, *optional*: see [`last_checkpoint`].

    Raises:
        ValueError: see [`last_checkpoint`]; or the checkpoint is of a training with another LoRA.
    """
    folder = last_checkpoint(trainer.args.output_dir, trainer.args.resume_from_checkpoint)
    if folder is not None and (fault := _fault_of_adapter(Path(folder), trainer.model)) is not None:
        raise ValueError(
            f"`resume_from_checkpoint` cannot go on from {folder}: {fault}. Train with the settings of the "
            "checkpoint, or start from the beginning in another `output_dir`."
        )
    return folder


def _fault_of_adapter(folder: Path, model: Any) -> str | None:
    """What differs between the LoRA of a checkpoint and that of a model."""
    adapters = getattr(model, "peft_config", None)
    if not (folder / ADAPTER_CONFIG).exists():
        has_weights = any((folder / name).exists() for name in (*FULL_WEIGHTS, *WEIGHTS_INDICES))
        return "it has all weights and no LoRA, and `use_peft` is true" if adapters and has_weights else None
    if not adapters:
        return "it has LoRA, and `use_peft` is false"
    saved, _ = _read_json(folder / ADAPTER_CONFIG)
    for name in ADAPTER_SETTINGS:
        there, here = (_comparable(value) for value in (saved.get(name), getattr(adapters["default"], name, None)))
        if name in saved and there != here:
            return f"its LoRA has the `{name}` {there}, and this training has {here}"
    return None


def _comparable(value: Any) -> Any:
    """Names of modules are in any order."""
    return sorted(value) if isinstance(value, (list, set, tuple)) else value


def fault_of_checkpoint(folder: str | Path) -> str | None:
    """Say why a training cannot resume from a checkpoint: a file is missing, empty, cut or not what its name says.

    Args:
        folder (`str` or `Path`): `checkpoint-STEP` of a `Trainer`, of any kind: one file, shards, an adapter, FSDP,
            DeepSpeed.

    Returns:
        `str`, *optional*: the first fault; `None` if it is whole.

    Example:
    >>> fault_of_checkpoint("no/such/checkpoint-7")
    'it is not a folder'
    """
    folder = Path(folder)
    if not folder.is_dir():
        return "it is not a folder"
    return next(_faults(folder), None)


def _is_named(resume: str | bool | None) -> bool:
    return resume not in (None, False, True, "False", "false", "True", "true", "auto")


def _faults(folder: Path) -> Iterator[str]:
    # `Trainer` writes this file last.
    state, fault = _read_json(folder / TRAINER_STATE_NAME)
    if fault is not None:
        yield fault
    elif not isinstance(state.get("global_step"), int):
        yield f"{TRAINER_STATE_NAME} has no `global_step`"
    for name in ("config.json", ADAPTER_CONFIG):
        if (folder / name).exists() and (fault := _read_json(folder / name)[1]) is not None:
            yield fault
    yield from _faults_of_weights(folder)
    # Everything else that `torch.save` wrote: optimizer, schedule, random states, arguments, and DeepSpeed's files.
    for path in sorted(path for end in ("*.pt", "*.pth", "*.bin") for path in folder.rglob(end)):
        if path.name not in WEIGHTS and (fault := _fault_of_torch_file(path)) is not None:
            yield f"{path.relative_to(folder)} {fault}"
    # Both or neither: `save_only_model` writes neither.
    has_optimizer = any(folder.glob("optimizer*")) or any(folder.glob("global_step*"))
    if any(folder.glob("rng_state*")) and not has_optimizer:
        yield f"{OPTIMIZER_NAME} is missing"
    if has_optimizer and not any(folder.glob("rng_state*")):
        yield "rng_state.pth is missing"
    # Each process writes its own random state. One numbered file is a fault as well: a single process numbers none.
    numbered = sorted(folder.glob("rng_state_*.pth"))
    wanted = [folder / f"rng_state_{index}.pth" for index in range(max(2, len(numbered)))] if numbered else []
    yield from (f"{path.name} is missing" for path in wanted if path not in numbered)
    if (folder / OPTIMIZER_NAME).exists() and not (folder / SCHEDULER_NAME).exists():
        yield f"{SCHEDULER_NAME} is missing"


def _faults_of_weights(folder: Path) -> Iterator[str]:
    found = [folder / name for name in WEIGHTS if (folder / name).exists()]
    indices = [folder / name for name in WEIGHTS_INDICES if (folder / name).exists()]
    sharded = [path for path in folder.glob(f"{FSDP_MODEL_NAME}*") if path.is_dir()]
    if not (
        found or indices or sharded or any(folder.glob("global_step*")) or any(folder.glob(f"{FSDP_MODEL_NAME}*"))
    ):
        yield "it holds no weights"
    # DeepSpeed keeps the values in a separate folder, and leaves a weights file without values.
    may_be_empty = any(folder.glob("global_step*"))
    for path in found:
        fault = _read_weights(path)[1]
        if fault is not None and not (may_be_empty and fault.endswith(_NO_VALUES)):
            yield fault
    for path in indices:
        yield from _faults_of_index(path)
    for path in [*sharded, *(path for path in folder.glob("optimizer*") if path.is_dir())]:
        if (fault := _fault_of_distributed(path)) is not None:
            yield f"{path.name} {fault}"


def _faults_of_index(index: Path) -> Iterator[str]:
    """The faults of the files that an index names."""
    content, fault = _read_json(index)
    weight_map = content.get("weight_map")
    if fault is not None or not isinstance(weight_map, dict) or not weight_map:
        yield fault or f"{index.name} has no `weight_map`"
        return
    for name in sorted(set(map(str, weight_map.values()))):
        path = index.parent / name
        if not path.is_file():
            yield f"{name} is missing, which {index.name} names"
            continue
        tensors, fault = _read_weights(path)
        if fault is not None:
            yield fault
        elif tensors is not None:
            for tensor, file in weight_map.items():
                if file == name and tensor not in tensors:
                    yield f"{name} has no {tensor}, which {index.name} names"
                    break


def _read_weights(path: Path) -> tuple[set[str] | None, str | None]:
    """The names of a file's tensors, if cheap to read, and the file's fault, if any."""
    if path.suffix != ".safetensors":
        fault = _fault_of_torch_file(path)
        if fault is None:
            with zipfile.ZipFile(path) as archive:
                # In the archive the values of each tensor are a separate file.
                is_empty = not any("/data/" in entry.filename and entry.file_size for entry in archive.infolist())
            fault = _NO_VALUES if is_empty else None
        return None, None if fault is None else f"{path.name} {fault}"
    size = path.stat().st_size
    if size == 0:
        return None, f"{path.name} is empty"
    # Safetensors: 8 bytes with the header's length, a JSON header with the offsets of all tensors, then their values.
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > size - 8:
            return None, f"{path.name} is cut"
        try:
            header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            end = max((int(entry["data_offsets"][1]) for entry in header.values()), default=0)
        except (ValueError, LookupError, AttributeError, TypeError, RecursionError):
            return None, f"{path.name} is not a file of weights"
    if 8 + length + end != size:
        return None, f"{path.name} is cut" if 8 + length + end > size else f"{path.name} is longer than its weights"
    if end == 0:  # DeepSpeed's ZeRO 3 leaves such files where tensors were not gathered
        return None, f"{path.name} {_NO_VALUES}"
    return set(header), None


def _fault_of_torch_file(path: Path) -> str | None:
    """The fault of a file of `torch.save`, which is a zip archive."""
    size = path.stat().st_size
    if size == 0:
        return "is empty"
    try:
        with zipfile.ZipFile(path) as archive:
            if size <= SMALL and archive.testzip() is not None:
                return "is damaged"
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return "is cut or damaged"
    return None


def _fault_of_distributed(folder: Path) -> str | None:
    """The fault of a folder that several processes wrote together."""
    try:
        parts = FileSystemReader(folder).read_metadata().storage_data.values()
    except Exception:  # whatever a cut pickle raises
        return "has no readable .metadata"
    for part in parts:
        path = folder / part.relative_path
        if not path.is_file() or path.stat().st_size < part.offset + part.length:
            return f"has no whole {part.relative_path}"
    return None


def _read_json(path: Path) -> tuple[dict[str, Any], str | None]:
    """The JSON object in a file, and the file's fault, if any."""
    if not path.is_file():
        return {}, f"{path.name} is missing"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}, f"{path.name} is empty" if path.stat().st_size == 0 else f"{path.name} is cut or damaged"
    return (content, None) if isinstance(content, dict) else ({}, f"{path.name} is cut or damaged")


__all__ = ["alone_in_its_output", "checkpoint_to_resume", "fault_of_checkpoint", "last_checkpoint"]
