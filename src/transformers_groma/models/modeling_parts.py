"""What models of several parts share: a dtype for each part, quantizers for the language model alone, saving."""

import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor
from transformers import AutoModel
from transformers.configuration_utils import PreTrainedConfig
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import logging
from transformers.utils.output_capturing import (
    maybe_install_capturing_hooks,
    resolve_hidden_states_indices,
    selected_hidden_states,
)

from .modeling_adapters import AdapterMixin
from .modeling_ops import COMPUTING_DTYPES, computing_dtype
from .released_weights import check_weights

logger = logging.get_logger(__name__)

# Parts that every family has.
TEXT_PARTS = ("language_model", "lm_head")


def part_of(name: str, parts: Sequence[str]) -> str | None:
    """The part of a model that a weight or module is in, by its name; `None` if it is in none."""
    return next((component for component in name.split(".") if component in parts), None)


def part_dtypes(weights: Mapping[str, Tensor], parts: Sequence[str]) -> dict[str, torch.dtype]:
    """The dtype of most weights of each part. Quantized weights do not count.

    Args:
        weights (`dict[str, Tensor]`): weights by name.
        parts (`Sequence[str]`): names of the parts, `"language_model"` among them.

    Returns:
        `dict[str, torch.dtype]`: by the name of the part; `"model"` is that of the language model or, in a model
        without one, of all weights.

    Example:
    >>> norm, bias = torch.zeros(2).half(), torch.zeros(3)
    >>> weights = {"model.language_model.norm.weight": norm, "model.vision_tower.bias": bias}
    >>> part_dtypes(weights, ("vision_tower", "language_model"))
    {'language_model': torch.float16, 'vision_tower': torch.float32, 'model': torch.float16}
    """
    sizes: dict[str, Counter] = {}
    for name, weight in weights.items():
        part = part_of(name, parts)
        if part is not None and weight.dtype in COMPUTING_DTYPES:
            for group in (part, "all"):
                sizes.setdefault(group, Counter())[weight.dtype] += weight.numel()
    dtypes = {group: sizes_of_dtypes.most_common(1)[0][0] for group, sizes_of_dtypes in sizes.items()}
    everything = dtypes.pop("all", None)
    main = dtypes.get("language_model", everything)
    return dtypes if main is None else {**dtypes, "model": main}


def record_part_dtypes(
    config: PreTrainedConfig, weights: Mapping[str, Tensor], parts: Sequence[str], kept_in_float32: Collection[str]
) -> torch.dtype | None:
    """Write the dtypes of a model's parts into its configuration, as `part_dtypes`, where loading would not give them.

    Args:
        config (`PreTrainedConfig`): the model's configuration; changed in place.
        weights (`Mapping[str, Tensor]`): its weights by name.
        parts (`Sequence[str]`): names of its parts, `"language_model"` among them.
        kept_in_float32 (`Collection[str]`): parts that loading in half precision leaves in float32.

    Returns:
        `torch.dtype`, *optional*: that of the language model or, in a model without one, of most weights.
    """
    dtypes = part_dtypes(weights, parts)
    main = dtypes.pop("model", None)
    # What loading in `main` would give each part. Only parts that differ are worth a line in config.json.
    expected = dict.fromkeys(dtypes, main)
    if main in (torch.bfloat16, torch.float16):
        expected.update(dict.fromkeys(set(kept_in_float32) & set(dtypes), torch.float32))
    vars(config).pop("part_dtypes", None)
    if dtypes != expected:
        others = {part: dtype for part, dtype in dtypes.items() if dtype != expected[part]}
        config.part_dtypes = {
            part: str(dtype).removeprefix("torch.") for part, dtype in {"model": main, **others}.items()
        }
    return main


def build_vision_tower(config: PreTrainedConfig) -> PreTrainedModel:
    """Build a vision encoder that can return all its hidden states.

    Args:
        config (`PreTrainedConfig`): any vision encoder of `AutoModel`.

    Returns:
        `PreTrainedModel`: with fresh weights.
    """
    vision_tower = AutoModel.from_config(config)
    # The library would install the hooks in the first forward, under a lock that torch.compile cannot trace.
    maybe_install_capturing_hooks(vision_tower)
    return vision_tower


def patch_map(hidden_states: Tensor, vision_config: PreTrainedConfig) -> Tensor:
    """The patches of a vision encoder as a map; class and register tokens come first and are dropped.

    Args:
        hidden_states (`Tensor` of shape `(B, tokens, C)`): of any layer.
        vision_config (`PreTrainedConfig`): has `image_size` and `patch_size`.

    Returns:
        `Tensor` of shape `(B, C, grid, grid)`.
    """
    grid = vision_config.image_size // vision_config.patch_size
    patches = hidden_states[:, hidden_states.shape[1] - grid * grid :]
    return patches.transpose(1, 2).unflatten(2, (grid, grid))


def check_pixels(name: str, pixels: Tensor, size: int) -> None:
    """Check images that come to the model.

    Args:
        name (`str`): how an error names them.
        pixels (`Tensor`): must be floats of shape `(n, channels, size, size)`.
        size (`int`): side in pixels.

    Raises:
        ValueError: another shape, or pixels that are not floats.
    """
    if pixels.ndim != 4 or tuple(pixels.shape[-2:]) != (size, size):
        raise ValueError(
            f"`{name}` must have shape (number of images, channels, {size}, {size}), got {tuple(pixels.shape)}. Let "
            "the model's own processor prepare the images."
        )
    if not pixels.is_floating_point():
        raise ValueError(
            f"`{name}` must be floats, rescaled and normalized, got {pixels.dtype}. Let the model's own processor "
            "prepare the images."
        )


class ModelOfParts(AdapterMixin, PreTrainedModel):
    """Base class of the families: visual parts around a language model, each in its own dtype.

    `from_pretrained(…, dtype=torch.bfloat16)` (or float16) leaves the parts of `_keep_in_fp32_modules_strict` in
    float32. `save_pretrained` writes the dtype of the language model into `config.json` as `dtype`. Parts that loading
    in that dtype would convert to another one than they have follow as `part_dtypes`. So `dtype="auto"` loads every
    part in the dtype in which it was saved.

    Quantizers convert the language model alone.

    Attributes:
        visual_parts (`tuple[str, ...]`): names of the parts beside the language model and its head.
        parts_without_text (`tuple[str, ...]`): parts that `peft` adapters stay out of.
        hub_tags (`tuple[str, ...]`): what the card of a model is tagged with when `push_to_hub` writes one.
    """

    visual_parts: tuple[str, ...] = ()
    hub_tags: tuple[str, ...] = ()
    base_model_prefix = "model"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _skip_keys_device_placement = ["past_key_values"]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _dtype_to_save: torch.dtype | None = None

    def post_init(self) -> None:
        super().post_init()
        # A list of its own, as `add_model_tags` adds to it.
        self.model_tags = list(self.hub_tags)
        # Quantizers leave out the modules of this list and those that a user names. They compare full paths.
        paths = [name for name, _ in self.named_modules() if name.rpartition(".")[2] in self.visual_parts]
        self._keep_in_fp32_modules.update(paths)
        self._visual_weights = [
            name
            for name, weight in self.named_parameters()
            if weight.is_floating_point() and self._part_of(name) in self.visual_parts
        ]

    def _get_dtype_plan(self, dtype: torch.dtype) -> dict[str, torch.dtype]:
        # The library reads two lists, by name of the module: `_keep_in_fp32_modules` is float32 where a model is
        # loaded in float16, and left out by quantizers; `_keep_in_fp32_modules_strict` is float32 in bfloat16, too.
        # All visual parts are in the first (see `post_init`), so that quantizers leave them out, but only those of the
        # second should be float32: for the plan the visual parts are taken out of the first.
        kept = self._keep_in_fp32_modules
        self._keep_in_fp32_modules = {name for name in kept if name.rpartition(".")[2] not in self.visual_parts}
        plan = super()._get_dtype_plan(dtype)
        self._keep_in_fp32_modules = kept
        # Parts that were saved in another dtype get it back if the model is loaded in the one it was saved in.
        saved = getattr(self.config, "part_dtypes", None) or {}
        if saved.get("model") == str(dtype).removeprefix("torch."):
            plan.update({part: getattr(torch, saved[part]) for part in saved if part != "model"})
        # Weights that are offloaded to disk are read in the dtype that their placeholder has now, whatever the plan
        # says.
        for name, weight in self.named_parameters():
            if weight.is_meta and self._part_of(name) in plan:
                weight.data = weight.data.to(plan[self._part_of(name)])
        return plan

    def _part_of(self, name: str) -> str | None:
        return part_of(name, (*self.visual_parts, *TEXT_PARTS))

    @classmethod
    def from_pretrained(cls, *args, **kwargs) -> "ModelOfParts":
        """Load a model as `PreTrainedModel.from_pretrained` does. Only the language model may be quantized.

        Raises:
            FileNotFoundError: a folder with settings but without weights.
            ValueError: a quantizer that converted other parts, so that the model would see something else.
        """
        path = args[0] if args else kwargs.get("pretrained_model_name_or_path")
        if not kwargs.get("subfolder") and kwargs.get("state_dict") is None:
            check_weights(path)
        loaded = super().from_pretrained(*args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        if getattr(model, "is_quantized", False):
            model._check_quantization()
            if kwargs.get("quantization_config") is not None and not hasattr(model.config, "text_config"):
                logger.warning(
                    f"{cls.__name__} has no language model: `quantization_config` changes nothing, leave it out."
                )
        return loaded

    def _check_quantization(self) -> None:
        """Check that a quantizer left the visual parts alone: some do not ask what to skip."""
        weights = dict(self.named_parameters())
        for name in self._visual_weights:
            weight = weights.get(name)
            is_plain = weight is not None and type(weight.data).__name__ in ("Tensor", "DTensor")
            if not is_plain or weight.dtype not in COMPUTING_DTYPES:
                method = getattr(self.quantization_method, "value", self.quantization_method)
                raise ValueError(
                    f"The quantizer {method!r} converted `{name.rpartition('.')[0]}`, which makes the model see "
                    "something else. Give its config a list of layers of `language_model`, or quantize with "
                    "bitsandbytes or torchao, which leave the visual parts out."
                )

    @property
    def device(self) -> torch.device:
        """The device for inputs: that of the weights or, if they are offloaded, the one that computes."""
        device = super().device
        if device.type != "meta":
            return device
        for module in self.modules():
            hook = getattr(module, "_hf_hook", None)
            for part in getattr(hook, "hooks", (hook,)):
                if getattr(part, "execution_device", None) is not None:
                    return torch.device(part.execution_device)
        return device

    @property
    def dtype(self) -> torch.dtype:
        # The library writes this into config.json when it saves: there it should be that of the language model.
        return self._dtype_to_save or super().dtype

    def save_pretrained(self, save_directory: str | os.PathLike, *args, **kwargs) -> None:
        """Save as `PreTrainedModel.save_pretrained` does, in a form from which a trainer can resume.

        The library writes the weights of some encoders (DINOv2) under their old names, which `from_pretrained`
        understands. A trainer reads checkpoints by the names of the modules and would silently resume with a fresh
        encoder, so what a trainer saves keeps these names. A trainer is recognized by the argument `state_dict`, which
        it always passes, even as `None`.

        `config.json` gets the dtype of the language model, see the class.
        """
        if "state_dict" in kwargs or self._has_ambiguous_names():
            kwargs.setdefault("save_original_format", False)
        weights = kwargs.get("state_dict") or dict(self.named_parameters())
        parts = (*self.visual_parts, *TEXT_PARTS)
        main = record_part_dtypes(self.config, weights, parts, self._keep_in_fp32_modules_strict)
        self._dtype_to_save = main
        try:
            super().save_pretrained(save_directory, *args, **kwargs)
        finally:
            self._dtype_to_save = None

    def _has_ambiguous_names(self) -> bool:
        """Whether two parts convert weights of the same name differently. The library would convert both one way."""
        names = Counter(
            name
            for conversion in get_model_conversion_mapping(self, add_legacy=False)
            if isinstance(conversion, WeightConverter)
            for name in conversion.target_patterns
        )
        return any(count > 1 for count in names.values())

    def feature_map(self, hidden_states: Tensor) -> Tensor:
        """Patch tokens as a map `(B, C, grid, grid)`; class and register tokens come first and are dropped."""
        return patch_map(hidden_states, self.config.vision_config)

    def encode_patches(self, pixel_values: Tensor, **kwargs) -> BaseModelOutputWithPooling:
        """Run the vision encoder with all hidden states.

        Args:
            pixel_values (`Tensor` of shape `(B, 3, image_size, image_size)`): images from the processor.
            **kwargs: passed on to the vision encoder, such as `output_attentions`.

        Returns:
            `BaseModelOutputWithPooling`: `hidden_states` `(B, tokens, vision_hidden_size)` of all layers.

        Raises:
            ValueError: images of another size, or pixels that are not floats.
        """
        check_pixels("pixel_values", pixel_values, self.config.vision_config.image_size)
        dtype = computing_dtype(self.vision_tower, pixel_values.dtype)
        return self.vision_tower(pixel_values.to(dtype), output_hidden_states=True, return_dict=True, **kwargs)


def no_autocast(tensor: Tensor) -> torch.autocast:
    """A context in which autocast is off on the device of a tensor."""
    return torch.autocast(device_type=tensor.device.type, enabled=False)


def requested_output(kwargs: dict, config: PreTrainedConfig, name: str) -> bool | list[int] | None:
    """The value of `output_hidden_states` or a setting like it: the call's, else the configuration's if it has it."""
    value = kwargs.get(name)
    return getattr(config, name, None) if value is None else value


def requested_hidden_states(
    hidden_states: tuple[Tensor, ...], kwargs: dict, config: PreTrainedConfig
) -> tuple[Tensor | None, ...] | None:
    """The requested hidden states: none, all, or those at a list of indices, as in the library's models.

    The library's decorator would do this, but the model itself always needs all hidden states.
    """
    requested = requested_output(kwargs, config, "output_hidden_states")
    indices = selected_hidden_states(requested)
    if indices is None:
        return hidden_states if requested else None
    kept = resolve_hidden_states_indices(None, indices, num_hidden_states=len(hidden_states))
    return tuple(state if index in kept else None for index, state in enumerate(hidden_states)) if kept else None


__all__ = [
    "TEXT_PARTS",
    "ModelOfParts",
    "build_vision_tower",
    "check_pixels",
    "no_autocast",
    "part_dtypes",
    "part_of",
    "patch_map",
    "record_part_dtypes",
    "requested_hidden_states",
    "requested_output",
]
