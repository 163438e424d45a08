"""The trainers for stages 2 and 3: the model's own loss, frozen parts in eval mode, a stop on a non-finite loss.

[`StageTrainerMixin`] is what they have in common with the trainer of stage 1.
"""

import json
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, ClassVar

import torch
from accelerate.utils import broadcast_object_list, is_compiled_module
from datasets import Dataset
from huggingface_hub import CommitInfo
from peft import PeftConfig
from torch import Tensor, nn
from torch.utils.data import IterableDataset, Sampler, SequentialSampler
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import HubStrategy, TrainOutput
from transformers.utils import PushInProgress
from transformers.utils.hub import hf_api
from trl import SFTConfig, SFTTrainer

from ..exact_boxes import BOX_INPUTS, boxes_to_bits
from ..model_files import base_of_adapter, model_files, read_json
from .arguments import data_seed, refuse_hub_token
from .callbacks import SetEpoch, check_loss
from .collators import ConversationCollator
from .model_card import ModelKind, public_name, write_model_card
from .packing import packed_tokens
from .row_order import SeededOrder, check_rows_per_image, estimate_lengths, order_by_image, order_by_length
from .trainable import checkpoint_frozen_layers, eval_frozen_parts

# What a training resumes from. Only `hub_strategy="checkpoint"` and "all_checkpoints" push it, and nothing pushes
# `training_args.bin`: it is a pickle, and names folders of this machine.
TRAINING_STATE_FILES = (
    "trainer_state.json",
    "optimizer*",
    "scheduler.pt",
    "scaler.pt",
    "rng_state*.pth",
    "pytorch_model_fsdp*",
    "global_step*",
    "latest",
)


def prepare_arguments(args: TrainingArguments) -> None:
    """Refuse settings that would bypass the model's own loss, and set what all stages share.

    Args:
        args (`TrainingArguments`): for a trainer of stage 2 or 3. Changed in place: columns are kept and texts are not
            prepared, because the collator reads rows as they are; `ddp_find_unused_parameters` is filled in.

    Raises:
        ValueError: several GPUs in one process, label smoothing, another loss, or batches that need token ids in rows.
    """
    if args.n_gpu > 1:
        raise ValueError(
            f"One process sees {args.n_gpu} GPUs, and images cannot be split between them with their prompts. Start "
            "one process per GPU (`accelerate launch` or `torchrun`), or show it a single one "
            "(`CUDA_VISIBLE_DEVICES=0`)."
        )
    if args.label_smoothing_factor != 0:
        raise ValueError(
            f"`label_smoothing_factor` is {args.label_smoothing_factor:g}, but it is computed outside of the model, "
            "which has its own loss (in labels, `<ground_box>` is not yet the token of its region). Set it to 0."
        )
    if isinstance(args, SFTConfig) and args.loss_type != "nll":
        raise ValueError(f"`loss_type` is {args.loss_type!r}, but the loss is the model's own. Set it to 'nll'.")
    if args.train_sampling_strategy == "batch_rebalance":
        raise ValueError(
            "`train_sampling_strategy` is 'batch_rebalance', which needs token ids in the rows. Set it to "
            "'group_by_length', which balances the processes, too."
        )
    args.remove_unused_columns = False
    if isinstance(args, SFTConfig):
        # The collator does all of it, and keeps the boxes.
        args.dataset_kwargs = {"skip_prepare_dataset": True}
        args.max_length = None
    # Where the batch of a process has no image, the vision parts get no gradient there.
    is_reentrant = (args.activation_checkpointing_kwargs or {}).get("use_reentrant")
    if args.ddp_find_unused_parameters is None and not is_reentrant:
        args.ddp_find_unused_parameters = True


def boxes_as_bits(inputs: Any) -> Any:
    """The inputs of a model with all boxes as bits, which no wrapper casts; see `boxes_to_bits`.

    Args:
        inputs (`dict`, `list`, `Tensor` or anything else): the inputs; not changed.

    Returns:
        The same inputs, with int32 bits in place of the tensors named in `BOX_INPUTS`.

    Example:
    >>> batch = boxes_as_bits({"pixel_values": torch.ones(2), "labels": [{"boxes": torch.ones(1, 4)}]})
    >>> batch["pixel_values"].dtype, batch["labels"][0]["boxes"].dtype
    (torch.float32, torch.int32)
    """
    if isinstance(inputs, Mapping):
        is_box = {name: name in BOX_INPUTS and isinstance(value, Tensor) for name, value in inputs.items()}
        return type(inputs)(
            {name: boxes_to_bits(value) if is_box[name] else boxes_as_bits(value) for name, value in inputs.items()}
        )
    if isinstance(inputs, (list, tuple)):
        return type(inputs)(boxes_as_bits(value) for value in inputs)
    return inputs


class StageTrainerMixin:
    """Shared by the trainers of all stages: training after evaluation, saving a complete model, its card, one push.

    Args:
        model (`nn.Module`): the model.
        args (`TrainingArguments`): the recipe.
        **kwargs: passed on to the trainer.

    Attributes:
        card_details (`dict`): what `write_model_card` should say beside the trainer's own settings.
        set_epoch (`SetEpoch`): tells the sampler of the training which epoch begins.
    """

    model_kind: ClassVar[ModelKind] = "chat"
    card_details: dict[str, Any]
    set_epoch: SetEpoch

    def __init__(self, model: nn.Module, args: TrainingArguments, **kwargs: Any):
        refuse_hub_token(args)
        self.card_details = {}
        self.set_epoch = SetEpoch()
        super().__init__(model=model, args=args, **kwargs)
        self.add_callback(self.set_epoch)

    def train(self, *args: Any, **kwargs: Any) -> TrainOutput:
        # An evaluation before training marks the model as prepared. Accelerate would then leave it unwrapped, and each
        # process would train a separate model.
        if is_compiled_module(self.model_wrapped) and self.model_wrapped._orig_mod is self.model:
            self.model_wrapped = self.model
        if self.model_wrapped is self.model:
            self.model._is_accelerate_prepared = False
        return super().train(*args, **kwargs)

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        # DeepSpeed and FSDP cast floating-point inputs to half precision on the way to the model. Bits are not cast.
        return super()._prepare_inputs(boxes_as_bits(inputs))

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write a model that `from_pretrained` reads. With `push_to_hub` it is pushed, with its card."""
        is_checkpoint = _internal_call and output_dir is not None
        if self.is_fsdp_enabled and not is_checkpoint:
            # With sharded checkpoints `Trainer` would write no weights here.
            self.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
        super().save_model(output_dir, _internal_call)

    def save_and_push(self) -> None:
        """Write the model and its card into the output folder; with `push_to_hub` both go to the Hub in one commit."""
        if self.args.push_to_hub:
            self.push_to_hub()  # writes them first
        else:
            self.save_model()
            self.create_model_card()

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **card: Any,
    ) -> CommitInfo | Future | None:
        """Like `Trainer.push_to_hub`, but pushes only the model's files and card, whatever else is in the folder.

        `card` goes to [`create_model_card`]: `tags`, `license` and `model_name`.
        """
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        if self.hub_model_id is None:
            self.init_hf_repo(token=token, private=private)
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        self.create_model_card(**card)
        self._finish_current_push()
        return self._upload(
            self.args.output_dir, commit_message, token=token, revision=revision, run_as_future=not blocking
        )

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Push from a checkpoint as `Trainer` does, but known files only; training state only if the strategy says."""
        strategy = self.args.hub_strategy
        if not self.is_world_process_zero() or strategy == HubStrategy.END:
            return
        is_pushing = self.push_in_progress is not None and not self.push_in_progress.is_done()
        if is_pushing and not self.args.hub_always_push:
            return
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        message = f"Training in progress, step {self.state.global_step}"
        jobs = [self._upload(checkpoint_folder, message, run_as_future=True)]
        if strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
            name = "last-checkpoint" if strategy == HubStrategy.CHECKPOINT else Path(checkpoint_folder).name
            message = f"{message}, checkpoint"
            jobs.append(self._upload(checkpoint_folder, message, TRAINING_STATE_FILES, name, run_as_future=True))
        if is_pushing:
            self.push_in_progress.jobs.extend(jobs)
        else:
            self.push_in_progress = PushInProgress(jobs)

    def _upload(
        self,
        folder: str,
        commit_message: str | None,
        more_files: Sequence[str] = (),
        path_in_repo: str | None = None,
        token: str | None = None,
        revision: str | None = None,
        run_as_future: bool = False,
    ) -> CommitInfo | Future:
        """Upload the model's files from a folder, in one commit."""
        settings = {
            "repo_id": self.hub_model_id,
            "path_in_repo": path_in_repo,
            "commit_message": commit_message,
            "token": token or self.args.hub_token,
            "revision": revision or self.args.hub_revision,
            "allow_patterns": [*(path.name for path in model_files(folder)), *more_files],
        }
        base = base_of_adapter(folder)
        if base is None or not Path(base).exists():
            return hf_api().upload_folder(folder_path=folder, run_as_future=run_as_future, **settings)
        warnings.warn(
            f"The adapter belongs to the folder {base}, which nobody else has. On the Hub it is called "
            f"{public_name(base)!r}: push the model, then `groma push {folder} {self.hub_model_id} --base-model "
            "ORG/NAME`, so that others can load the adapter.",
            stacklevel=2,
        )
        with _published_settings(folder, public_name(base)) as published:
            commit = hf_api().upload_folder(folder_path=published, **settings)
        return _finished(commit) if run_as_future else commit

    def create_model_card(
        self, model_name: str | None = None, tags: str | Sequence[str] | None = None, license: str | None = None
    ) -> None:
        """Write `README.md` with data, recipe and metrics into the output folder.

        Args:
            model_name (`str`, *optional*): the heading; by default the name on the Hub, or that of the folder.
            tags (`str` or `Sequence[str]`, *optional*): beside those of the family.
            license (`str`, *optional*): of the weights, as the Hub abbreviates it.
        """
        if self.is_world_process_zero():
            tags = [tags] if isinstance(tags, str) else tags or []
            write_model_card(Path(self.args.output_dir), self, self.model_kind, model_name, tags, license)


@contextmanager
def _published_settings(folder: str, base: str) -> Iterator[str]:
    """The folder of an adapter as others may see it: links to its files, and settings that name its model `base`."""
    with tempfile.TemporaryDirectory(prefix="groma-push-") as published:
        for path in Path(folder).iterdir():
            os.symlink(path.resolve(), Path(published, path.name))
        settings = Path(published, "adapter_config.json")
        content = read_json(settings) | {"base_model_name_or_path": base}
        settings.unlink()
        settings.write_text(json.dumps(content, indent=2, sort_keys=True), encoding="utf-8")
        yield published


def _finished(result: Any) -> Future:
    future: Future = Future()
    future.set_result(result)
    return future


class GromaLossMixin(StageTrainerMixin):
    """The training step of stages 2 and 3. `Trainer` averages the loss over the answer tokens of all processes.

    With `train_sampling_strategy="group_by_length"` the rows of a step have similar lengths, also without token ids in
    the dataset: `estimate_lengths` reads the conversations.

    Args:
        model (`nn.Module`): the model, frozen where it should not learn.
        args (`TrainingArguments`): the recipe.
        rows_per_image (`int`): the most rows about one image that come together; their image is then encoded once.
        **kwargs: passed on to the trainer.

    Raises:
        ValueError: see `prepare_arguments`; or `rows_per_image` below 1, beside another order of the rows, or for
            rows that are not a `datasets.Dataset` of conversations; or `group_by_length` for a stream.
    """

    def __init__(self, model: nn.Module, args: TrainingArguments, rows_per_image: int = 1, **kwargs: Any):
        prepare_arguments(args)
        check_rows_per_image(rows_per_image, args.train_sampling_strategy)
        self.rows_per_image = rows_per_image
        super().__init__(model=model, args=args, **kwargs)
        if isinstance(self.data_collator, ConversationCollator):
            # All processes gather sharded weights together, layer by layer, so each must run the same layers.
            self.data_collator.always_image = self.is_fsdp_enabled or self.is_deepspeed_enabled
            self.data_collator.shares_images = args.world_size <= 1 or not self._cuts_batches()
        if rows_per_image > 1 and self.train_dataset is not None and not self._orders_rows(self.train_dataset):
            raise ValueError(
                f"`rows_per_image` is {rows_per_image}, but rows of a {type(self.train_dataset).__name__} collated by "
                f"a {type(self.data_collator).__name__} cannot be put together by image. Pass a `datasets.Dataset` of "
                "conversations with a `ConversationCollator`, or set `rows_per_image` to 1."
            )
        if args.train_sampling_strategy == "group_by_length" and isinstance(self.train_dataset, IterableDataset):
            raise ValueError(
                "`train_sampling_strategy` is 'group_by_length', but the rows of a stream come in its own order. Pass "
                "a `datasets.Dataset` of conversations, or set it to 'random'."
            )

    def _cuts_batches(self) -> bool:
        """Whether Accelerate joins batches that one process reads for all, as of streams, and cuts them by rows."""
        evaluated = self.eval_dataset if isinstance(self.eval_dataset, dict) else {"": self.eval_dataset}
        streams = any(isinstance(rows, IterableDataset) for rows in (self.train_dataset, *evaluated.values()))
        settings = self.accelerator
        return settings.split_batches or (streams if settings.dispatch_batches is None else settings.dispatch_batches)

    def _orders_rows(self, rows: object) -> bool:
        return isinstance(rows, Dataset) and isinstance(self.data_collator, ConversationCollator)

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler | None:
        rows = self.train_dataset if train_dataset is None else train_dataset
        by_length = self.args.train_sampling_strategy == "group_by_length"
        if not self._orders_rows(rows) or not (by_length or self.rows_per_image > 1):
            return super()._get_train_sampler(train_dataset)
        if by_length:
            order = self._order_by_length(rows)
        else:
            order = order_by_image(list(rows["image_id"]), self.rows_per_image)
        self.set_epoch.sampler = SeededOrder(order, len(rows), data_seed(self.args))
        return self.set_epoch.sampler

    def _order_by_length(self, rows: Dataset) -> Callable[[torch.Generator], list[int]]:
        lengths = None
        if self.accelerator.is_main_process:
            workers = self.args.dataloader_num_workers or None
            lengths = estimate_lengths(rows, self.data_collator.processor, workers)
        (lengths,) = broadcast_object_list([lengths])
        rows_per_step = self.args.train_batch_size * self.args.world_size * self.args.gradient_accumulation_steps
        return order_by_length(lengths, rows_per_step)

    def _get_eval_sampler(self, eval_dataset: Dataset) -> Sampler | None:
        # In their order: `Trainer` averages over batches, so the loss of other batches would be another.
        return SequentialSampler(eval_dataset) if self.args.world_size <= 1 else None

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Any]:
        """The loss of a batch. With `return_outputs`, their logits are those of tokens with a label alone."""
        decoder = self.accelerator.unwrap_model(model).get_decoder()
        if model.training:
            eval_frozen_parts(model)
            checkpoint_frozen_layers(decoder)
        # Not the loss of `SFTTrainer`: its fused head would bypass the model's forward, where boxes become proxy
        # tokens. Nothing reads a cache here, and with checkpointing the library would warn that there is none.
        without_cache = {**inputs, "use_cache": False, "loss_only": True}
        # A compiled model would be compiled again for every length.
        with nullcontext() if self.args.torch_compile else packed_tokens(decoder):
            loss, outputs = Trainer.compute_loss(self, model, without_cache, True, num_items_in_batch)
        if model.training:
            check_loss(loss, inputs, self.args.output_dir, self.state.global_step, self.args.process_index)
        return (loss, outputs) if return_outputs else loss

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        # The loss alone: logits of a whole evaluation set fit into no memory, and their shapes differ by batch.
        with torch.no_grad(), self.compute_loss_context_manager():
            loss = self.compute_loss(model, self._prepare_inputs(inputs))
        return loss.detach(), None, None


def learn_in_float32(model: nn.Module) -> None:
    """Store the trainable weights in float32: in half precision small steps would be rounded away.

    Args:
        model (`nn.Module`): changed in place; frozen weights keep their dtype.

    Example:
    >>> model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)).half()
    >>> _ = model[0].requires_grad_(False)
    >>> learn_in_float32(model)
    >>> model[0].weight.dtype, model[1].weight.dtype
    (torch.float16, torch.float32)
    """
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()


class GromaTrainer(GromaLossMixin, Trainer):
    """`Trainer` for the alignment stage."""


class GromaSFTTrainer(GromaLossMixin, SFTTrainer):
    """TRL's `SFTTrainer` for the instruction stage."""

    def __init__(
        self, model: nn.Module, args: TrainingArguments, peft_config: PeftConfig | None = None, **kwargs: Any
    ):
        with warnings.catch_warnings():
            # PEFT asks the model under a name that transformers deprecates; users cannot change that.
            warnings.filterwarnings(
                "ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning
            )
            super().__init__(model=model, args=args, peft_config=peft_config, **kwargs)
        if peft_config is not None and not self.is_deepspeed_enabled:  # ZeRO 3 takes one precision only
            learn_in_float32(self.model)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        # `SFTTrainer` adds means of metrics that its own loss collects; there are none here.
        Trainer.log(self, logs, start_time)


__all__ = [
    "GromaLossMixin",
    "GromaSFTTrainer",
    "GromaTrainer",
    "StageTrainerMixin",
    "boxes_as_bits",
    "learn_in_float32",
    "prepare_arguments",
]
