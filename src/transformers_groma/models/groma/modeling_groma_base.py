"""What all Groma models share: the step from images to regions, initial weights, dtypes, loading and saving."""

import os
from collections import Counter
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from transformers import AutoModel
from transformers.configuration_utils import PreTrainedConfig
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.modeling_utils import PreTrainedModel
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, logging
from transformers.utils.output_capturing import (
    maybe_install_capturing_hooks,
    resolve_hidden_states_indices,
    selected_hidden_states,
)

from ..modeling_ops import COMPUTING_DTYPES, computing_dtype
from ..released_weights import check_weights
from .configuration_groma import GromaConfig
from .modeling_groma_adapters import GromaAdapterMixin
from .modeling_groma_masks import GromaMaskDecoder, init_groma_mask_decoder_weights
from .modeling_groma_outputs import GromaDetection
from .modeling_groma_proposer import GromaRegionProposer, GromaRegionProposerOutput, init_proposer_weights
from .modeling_groma_regions import RegionSelection, select_regions

logger = logging.get_logger(__name__)

# The parts beside the language model and its head.
VISUAL_PARTS = ("vision_tower", "region_proposer", "region_encoder", "multi_modal_projector", "mask_decoder")
PARTS = (*VISUAL_PARTS, "language_model", "lm_head")


def _part_of(name: str) -> str | None:
    """The part of the model that a weight or module is in, by its name; `None` if it is in none."""
    return next((component for component in name.split(".") if component in PARTS), None)


def part_dtypes(weights: Mapping[str, Tensor]) -> dict[str, torch.dtype]:
    """The dtype of most weights of each part. Quantized weights do not count.

    Args:
        weights (`dict[str, Tensor]`): weights by name.

    Returns:
        `dict[str, torch.dtype]`: by the name of the part; `"model"` is that of the language model or, in a model
        without one, of all weights.

    Example:
    >>> norm, bias = torch.zeros(2).half(), torch.zeros(3)
    >>> part_dtypes({"model.language_model.norm.weight": norm, "model.vision_tower.bias": bias})
    {'language_model': torch.float16, 'vision_tower': torch.float32, 'model': torch.float16}
    """
    sizes: dict[str, Counter] = {}
    for name, weight in weights.items():
        part = _part_of(name)
        if part is not None and weight.dtype in COMPUTING_DTYPES:
            for group in (part, "all"):
                sizes.setdefault(group, Counter())[weight.dtype] += weight.numel()
    dtypes = {group: sizes_of_dtypes.most_common(1)[0][0] for group, sizes_of_dtypes in sizes.items()}
    everything = dtypes.pop("all", None)
    main = dtypes.get("language_model", everything)
    return dtypes if main is None else {**dtypes, "model": main}


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


class GromaPreTrainedModel(GromaAdapterMixin, PreTrainedModel):
    """Base class of all Groma models: from images to regions, initial weights, loading and saving.

    `from_pretrained(…, dtype=torch.bfloat16)` (or float16) leaves the vision encoder, the region proposer and the mask
    decoder in float32, and autocast is off for them when regions are chosen. Choosing is discrete: with rounded
    numbers the model would point at other places. `model.to(torch.bfloat16)` converts everything, for speed.

    `save_pretrained` writes the dtype of the language model into `config.json` as `dtype`. Parts that loading in that
    dtype would convert to another one than they have follow as `part_dtypes`. So `dtype="auto"` loads every part in
    the dtype in which it was saved.

    Quantizers convert the language model alone.
    """

    _dtype_to_save: torch.dtype | None = None
    _keep_in_fp32_modules_strict = ["vision_tower", "region_proposer", "mask_decoder"]
    config: GromaConfig
    config_class = GromaConfig
    base_model_prefix = "model"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _no_split_modules = [
        "DeformableDetrEncoderLayer",
        "DeformableDetrDecoderLayer",
        "GromaRegionEncoder",
        "GromaMaskDecoder",
    ]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True

    def __init__(self, config: PreTrainedConfig, *inputs, **kwargs):
        super().__init__(config, *inputs, **kwargs)
        # The proposer is not a PreTrainedModel, so the library does not choose its attention. Its queries are float32,
        # as exact boxes need them, which flash attention does not take.
        attention = "eager" if config._attn_implementation == "eager" else "sdpa"
        config.proposer_config._attn_implementation = attention
        if config.mask_decoder_config is not None:
            config.mask_decoder_config._attn_implementation = attention
            _check_mask_feature_layers(config)

    def post_init(self) -> None:
        super().post_init()
        # Quantizers leave out the modules of this list and those that a user names. They compare full paths.
        paths = [name for name, _ in self.named_modules() if name.rpartition(".")[2] in VISUAL_PARTS]
        self._keep_in_fp32_modules.update(paths)
        self._visual_weights = [
            name
            for name, weight in self.named_parameters()
            if weight.is_floating_point() and _part_of(name) in VISUAL_PARTS
        ]

    def _get_dtype_plan(self, dtype: torch.dtype) -> dict[str, torch.dtype]:
        # The library reads two lists, by name of the module: `_keep_in_fp32_modules` is float32 where a model is
        # loaded in float16, and left out by quantizers; `_keep_in_fp32_modules_strict` is float32 in bfloat16, too.
        # All visual parts are in the first (see `post_init`), so that quantizers leave them out, but only those of the
        # second should be float32: for the plan the visual parts are taken out of the first.
        kept = self._keep_in_fp32_modules
        self._keep_in_fp32_modules = {name for name in kept if name.rpartition(".")[2] not in VISUAL_PARTS}
        plan = super()._get_dtype_plan(dtype)
        self._keep_in_fp32_modules = kept
        # Parts that were saved in another dtype get it back if the model is loaded in the one it was saved in.
        saved = getattr(self.config, "part_dtypes", None) or {}
        if saved.get("model") == str(dtype).removeprefix("torch."):
            plan.update({part: getattr(torch, saved[part]) for part in saved if part != "model"})
        # Weights that are offloaded to disk are read in the dtype that their placeholder has now, whatever the plan
        # says.
        for name, weight in self.named_parameters():
            if weight.is_meta and _part_of(name) in plan:
                weight.data = weight.data.to(plan[_part_of(name)])
        return plan

    @classmethod
    def from_pretrained(cls, *args, **kwargs) -> "GromaPreTrainedModel":
        """Load a model as `PreTrainedModel.from_pretrained` does. Only the language model may be quantized.

        Raises:
            FileNotFoundError: a folder with settings but without weights.
            ValueError: a quantizer that converted other parts, so that the model would choose other regions.
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
                    f"The quantizer {method!r} converted `{name.rpartition('.')[0]}`, which makes the model see other "
                    "regions. Give its config a list of layers of `language_model` to convert, or quantize with "
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

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, GromaRegionProposer):
            init_proposer_weights(module)
        elif isinstance(module, GromaMaskDecoder):
            init_groma_mask_decoder_weights(module)

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
        dtypes = part_dtypes(kwargs.get("state_dict") or dict(self.named_parameters()))
        main = dtypes.pop("model", None)
        # What loading in `main` would give each part. Only parts that differ are worth a line in config.json.
        expected = dict.fromkeys(dtypes, main)
        if main in (torch.bfloat16, torch.float16):
            expected.update(dict.fromkeys(self._keep_in_fp32_modules_strict & set(dtypes), torch.float32))
        vars(self.config).pop("part_dtypes", None)
        if dtypes != expected:
            others = {part: dtype for part, dtype in dtypes.items() if dtype != expected[part]}
            names = {part: str(dtype).removeprefix("torch.") for part, dtype in {"model": main, **others}.items()}
            self.config.part_dtypes = names
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

    def detect(
        self, pixel_values: Tensor, *, differentiable: bool = False, **kwargs: Unpack[TransformersKwargs]
    ) -> GromaDetection:
        """Run the vision encoder and the region proposer on images.

        This is the one step from an image to proposals. [`select_regions`] makes regions of them.

        Args:
            pixel_values (`Tensor` of shape `(B, 3, image_size, image_size)`): images from the processor.
            differentiable (`bool`): for the losses of stage 1: gradients reach the region proposer, and autocast
                applies. Otherwise autocast is off and the proposals are constants: choosing regions is discrete, so
                it needs exact boxes and has no gradient.
            **kwargs: passed on to the vision encoder, such as `output_attentions`.

        Returns:
            `GromaDetection`: `vision`, with all hidden states, and `proposals`, with `pred_boxes` `(B, num_queries,
            4)` in normalized `cxcywh` and `scores` `(B, num_queries)`.

        Raises:
            ValueError: images of another size, or pixels that are not floats.

        Example:

        ```python
        >>> import torch
        >>> from transformers_groma import GromaForRegionProposal, GromaRegionProposalConfig

        >>> vision_config = {
        ...     "model_type": "dinov2", "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2,
        ...     "image_size": 112, "patch_size": 14,
        ... }
        >>> proposer_config = {"d_model": 32, "num_queries": 20, "encoder_layers": 1, "decoder_layers": 2}
        >>> config = GromaRegionProposalConfig(vision_config=vision_config, proposer_config=proposer_config)
        >>> model = GromaForRegionProposal(config).eval()
        >>> vision, proposals = model.detect(torch.zeros(1, 3, 112, 112))
        >>> vision.last_hidden_state.shape, proposals.pred_boxes.shape
        (torch.Size([1, 65, 32]), torch.Size([1, 20, 4]))

        ```"""
        if differentiable:
            vision = self.encode_patches(pixel_values, **kwargs)
            return GromaDetection(vision, self.region_proposer(self.proposer_feature_map(vision.hidden_states)))
        with no_autocast(pixel_values):
            vision = self.encode_patches(pixel_values, **kwargs)
        # Devices of a device map may differ, and autocast is a setting of a device.
        with torch.no_grad(), no_autocast(vision.hidden_states[-1]):
            proposals = self.region_proposer(self.proposer_feature_map(vision.hidden_states))
        return GromaDetection(vision, proposals)

    def select_regions(
        self,
        proposals: GromaRegionProposerOutput,
        refer_boxes: Tensor | None = None,
        ground_boxes: Tensor | None = None,
        *,
        permute: bool = False,
    ) -> RegionSelection:
        """Select the regions of every image from its proposals and put them into slots, as configured.

        Args:
            proposals (`GromaRegionProposerOutput`): `pred_boxes` `(B, Q, 4)`, normalized `cxcywh`, and `scores`
                `(B, Q)` are read.
            refer_boxes (`Tensor` of shape `(B, K, 4)`, *optional*), ground_boxes (`Tensor` of shape `(B, G, 4)`,
                *optional*): user and ground-truth boxes, likewise; rows of zeros pad.
            permute (`bool`): shuffle the used slots of every image (training).

        Returns:
            `RegionSelection`: boxes `(B, max_regions, 4)`, scores and mask `(B, max_regions)`, slots of the given
            boxes.

        Raises:
            ValueError: more boxes than slots.
        """
        return select_regions(
            proposals.pred_boxes,
            proposals.scores,
            refer_boxes,
            ground_boxes,
            max_regions=self.config.max_regions,
            nms_threshold=self.config.nms_threshold,
            score_threshold=self.config.box_score_threshold,
            permute=permute,
        )

    def feature_map(self, hidden_states: Tensor) -> Tensor:
        """Patch tokens as a map `(B, C, grid, grid)`; class and register tokens come first and are dropped."""
        grid = self.config.vision_config.image_size // self.config.vision_config.patch_size
        patches = hidden_states[:, hidden_states.shape[1] - grid * grid :]
        return patches.transpose(1, 2).unflatten(2, (grid, grid))

    def proposer_feature_map(self, hidden_states: tuple[Tensor, ...]) -> Tensor:
        """What the region proposer reads: the mean of the vision encoder's last layers, as a map."""
        layers = hidden_states[-self.config.proposer_config.num_vision_layers :]
        return self.feature_map(torch.stack(layers).mean(dim=0))

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
        size = self.config.vision_config.image_size
        if pixel_values.ndim != 4 or tuple(pixel_values.shape[-2:]) != (size, size):
            raise ValueError(
                f"`pixel_values` must have shape (number of images, channels, {size}, {size}), got "
                f"{tuple(pixel_values.shape)}. Let the model's own processor prepare the images."
            )
        if not pixel_values.is_floating_point():
            raise ValueError(
                f"`pixel_values` must be floats, rescaled and normalized, got {pixel_values.dtype}. Let the model's "
                "own processor prepare the images."
            )
        dtype = computing_dtype(self.vision_tower, pixel_values.dtype)
        return self.vision_tower(pixel_values.to(dtype), output_hidden_states=True, return_dict=True, **kwargs)


def _check_mask_feature_layers(config: PreTrainedConfig) -> None:
    """Check that the vision encoder has the hidden states that the mask decoder reads."""
    count = getattr(config.vision_config, "num_hidden_layers", None)
    layers = config.mask_decoder_config.vision_feature_layers
    if count is not None and not all(-count - 1 <= layer <= count for layer in layers):
        raise ValueError(
            f"`vision_feature_layers` of `mask_decoder_config` are {layers}, but the vision encoder has the hidden "
            f"states 0 to {count} (or -{count + 1} to -1)."
        )


def no_autocast(tensor: Tensor) -> torch.autocast:
    """A context in which autocast is off on the device of a tensor."""
    return torch.autocast(device_type=tensor.device.type, enabled=False)


def requested_output(kwargs: dict, config: PreTrainedConfig, name: str) -> bool | list[int] | None:
    """The value of `output_hidden_states` or `output_attentions`: the call's, else the configuration's."""
    value = kwargs.get(name)
    return getattr(config, name) if value is None else value


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
    "VISUAL_PARTS",
    "GromaPreTrainedModel",
    "build_vision_tower",
    "no_autocast",
    "requested_hidden_states",
    "requested_output",
]
