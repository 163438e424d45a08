"""The promptable mask decoder that model families share: transformers' SAM parts behind one small class."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.models.sam.configuration_sam import (
    SamConfig,
    SamMaskDecoderConfig,
    SamPromptEncoderConfig,
    SamVisionConfig,
)
from transformers.models.sam.modeling_sam import SamMaskDecoder, SamPositionalEmbedding, SamPromptEncoder
from transformers.models.sam2.configuration_sam2 import Sam2MaskDecoderConfig
from transformers.models.sam2.modeling_sam2 import Sam2MaskDecoder

from ..boxes import box_cxcywh_to_xyxy
from ..point_labels import NO_POINT
from .configuration_mask_decoder import MaskDecoderConfig

# Pixels of the prompt encoder for each position of the embedding. Prompts come in fractions of the image, so any
# number gives the same result.
_PATCH_SIZE = 16
# The prompt encoder takes pixel indices and adds half a pixel itself.
_HALF_PIXEL = 0.5
# Every prompt has its own copy of the image embedding: without gradients this many are decoded at a time.
_PROMPTS_AT_ONCE = 16


class MaskEmbedding(NamedTuple):
    """What a mask decoder reads of a batch of images.

    Attributes:
        image (`Tensor` of shape `(B, C, G, G)`): the image embedding.
        skips (`tuple[Tensor, Tensor]`, *optional*): finer maps `(B, C / 8, 4G, 4G)` and `(B, C / 4, 2G, 2G)`.
    """

    image: Tensor
    skips: tuple[Tensor, Tensor] | None = None

    def of_images(self, index: Tensor) -> "MaskEmbedding":
        """The embeddings of some images, in the order of `index`; an image may come several times."""
        index = index.to(self.image.device)
        skips = None if self.skips is None else tuple(skip[index] for skip in self.skips)
        return MaskEmbedding(self.image[index], skips)


class MaskPrompts(NamedTuple):
    """Prompts for masks, one row each, in any of a batch of images. Rows may differ in what they have.

    Attributes:
        image_index (`Tensor` of shape `(N,)`, int64): the image of each.
        boxes (`Tensor` of shape `(N, 4)`, *optional*): normalized `cxcywh`; zeros for a prompt without a box.
        points (`Tensor` of shape `(N, P, 2)`, *optional*): normalized `(x, y)`.
        point_labels (`Tensor` of shape `(N, P)`, int64, *optional*): 1 for points on the object, 0 for points that are
            not, -1 for padding, which comes last.
        masks (`Tensor` of shape `(N, 4G, 4G)`, *optional*): logits of an earlier mask, to be corrected.
        has_mask (`Tensor` of shape `(N,)`, bool, *optional*): which prompts have such a mask; all by default.
        vectors (`Tensor` of shape `(N, V, C)`, *optional*): ready prompt vectors, in every prompt.
    """

    image_index: Tensor
    boxes: Tensor | None = None
    points: Tensor | None = None
    point_labels: Tensor | None = None
    masks: Tensor | None = None
    has_mask: Tensor | None = None
    vectors: Tensor | None = None

    def rows(self, index: Tensor) -> "MaskPrompts":
        """Some of the prompts."""
        return MaskPrompts(*(None if value is None else value[index.to(value.device)] for value in self))


class MaskPredictions(NamedTuple):
    """Masks of prompts.

    Attributes:
        logits (`Tensor` of shape `(N, M, 4G, 4G)`): above 0 where the region is.
        quality (`Tensor` of shape `(N, M)`): the estimated IoU of each mask.
    """

    logits: Tensor
    quality: Tensor


class PromptedMaskDecoder(nn.Module):
    """Turns an image embedding and prompts (boxes, points, masks, ready vectors) into masks and their quality.

    It is SAM's prompt encoder with SAM's mask decoder or, with skip maps, that of SAM 2 (Kirillov et al., ICCV 2023;
    Ravi et al., 2024). Each prompt is decoded by itself: no prompt changes the mask of another, whatever it has.

    Args:
        config (`MaskDecoderConfig`): sizes.
        embedding_size (`int`): side `G` of the image embedding.

    Example:

    ```python
    >>> import torch
    >>> from transformers_groma.models.configuration_mask_decoder import MaskDecoderConfig
    >>> from transformers_groma.models.modeling_mask_decoder import MaskEmbedding, MaskPrompts, PromptedMaskDecoder

    >>> config = MaskDecoderConfig(hidden_size=32, num_attention_heads=2, mlp_dim=32, use_skip_maps=False)
    >>> decoder = PromptedMaskDecoder(config, embedding_size=8).eval()
    >>> prompts = MaskPrompts(
    ...     image_index=torch.tensor([0, 0]),
    ...     boxes=torch.tensor([[0.5, 0.5, 0.2, 0.4], [0.0, 0.0, 0.0, 0.0]]),  # normalized cxcywh
    ...     points=torch.tensor([[[0.0, 0.0]], [[0.3, 0.7]]]),
    ...     point_labels=torch.tensor([[-1], [1]]),
    ... )
    >>> logits, quality = decoder(MaskEmbedding(torch.zeros(1, 32, 8, 8)), prompts)
    >>> logits.shape, quality.shape
    (torch.Size([2, 1, 32, 32]), torch.Size([2, 1]))
    ```"""

    def __init__(self, config: MaskDecoderConfig, embedding_size: int):
        super().__init__()
        self.config = config
        self.embedding_size = embedding_size
        self.prompt_encoder = SamPromptEncoder(_prompt_encoder_config(config, embedding_size))
        # The random code of positions is fixed: a buffer and not a weight that learns.
        code: SamPositionalEmbedding = self.prompt_encoder.shared_embedding
        values = code.positional_embedding.detach()
        del code.positional_embedding
        code.register_buffer("positional_embedding", values)
        self.mask_decoder = _build_mask_decoder(config)

    @property
    def mask_size(self) -> int:
        """Side of the masks, 4 times that of the embedding."""
        return 4 * self.embedding_size

    def forward(self, embedding: MaskEmbedding, prompts: MaskPrompts, multimask: bool = False) -> MaskPredictions:
        """Decode the masks of prompts.

        Args:
            embedding (`MaskEmbedding`): of the images.
            prompts (`MaskPrompts`): N prompts, perhaps none.
            multimask (`bool`): several masks for each prompt, for clicks that may mean a part, an object or a group.

        Returns:
            `MaskPredictions`: `logits` `(N, M, 4G, 4G)` and `quality` `(N, M)`; M is 1, or `num_multimask_outputs`.

        Raises:
            ValueError: a prompt that has nothing, skip maps that do not fit the configuration, or `multimask` for a
                decoder that makes one mask.
        """
        if multimask and not self.config.num_multimask_outputs:
            raise ValueError(
                "`multimask` needs a mask decoder with `num_multimask_outputs` above 0, but that of this one is 0."
            )
        if (embedding.skips is not None) != self.config.use_skip_maps:
            raise ValueError(
                f"`embedding` comes {'with' if embedding.skips is not None else 'without'} skip maps, but "
                f"`use_skip_maps` of the mask decoder is {self.config.use_skip_maps}."
            )
        count, outputs = len(prompts.image_index), self.config.num_multimask_outputs if multimask else 1
        logits = embedding.image.new_empty(count, outputs, self.mask_size, self.mask_size)
        quality = embedding.image.new_empty(count, outputs)
        pieces, order = [], []
        with _loaded_tables(self):
            for rows, num_points, has_box in self._groups(prompts):
                part = self._decode(embedding, prompts.rows(rows), num_points, has_box, multimask)
                pieces.append(part)
                order.append(rows)
        if not pieces:
            return MaskPredictions(logits, quality)
        inverse = torch.cat(order).argsort().to(logits.device)
        return MaskPredictions(
            torch.cat([piece.logits for piece in pieces])[inverse],
            torch.cat([piece.quality for piece in pieces])[inverse],
        )

    def _groups(self, prompts: MaskPrompts) -> Iterator[tuple[Tensor, int, bool]]:
        """Rows of prompts that have equally many points and a box or none: padding would change their masks."""
        count = len(prompts.image_index)
        num_points = torch.zeros(count, dtype=torch.long)
        if prompts.points is not None:
            num_points = (prompts.point_labels != NO_POINT).sum(dim=1).cpu()
        has_box = torch.zeros(count, dtype=torch.bool)
        if prompts.boxes is not None:
            has_box = (prompts.boxes != 0).any(dim=1).cpu()
        if prompts.vectors is None and prompts.masks is None and not (has_box | (num_points > 0)).all():
            raise ValueError("A prompt for a mask must have a box, a point, a mask or a vector, and one has nothing.")
        at_once = count if torch.is_grad_enabled() else _PROMPTS_AT_ONCE
        for points, box in sorted(set(zip(num_points.tolist(), has_box.tolist(), strict=True))):
            rows = ((num_points == points) & (has_box == box)).nonzero().flatten()
            for chunk in rows.split(at_once):
                yield chunk, points, box

    def _decode(
        self, embedding: MaskEmbedding, prompts: MaskPrompts, num_points: int, has_box: bool, multimask: bool
    ) -> MaskPredictions:
        """Decode prompts of one kind. Each is a batch row of its own, with a copy of its image's embedding."""
        own = embedding.of_images(prompts.image_index)
        sparse, dense = self._embed_prompts(prompts, num_points, has_box)
        inputs = {
            "image_embeddings": own.image,
            "image_positional_embeddings": self.image_positions().expand(len(own.image), -1, -1, -1).to(own.image),
            "sparse_prompt_embeddings": sparse.to(own.image),
            "dense_prompt_embeddings": dense.to(own.image),
            "multimask_output": multimask,
        }
        if own.skips is not None:
            inputs["high_resolution_features"] = list(own.skips)
        logits, quality, *_ = self.mask_decoder(**inputs)
        return MaskPredictions(logits[:, 0], quality[:, 0])

    def _embed_prompts(self, prompts: MaskPrompts, num_points: int, has_box: bool) -> tuple[Tensor, Tensor]:
        """The prompt tokens `(N, 1, tokens, C)`, and what is added to the image embedding `(N, C, G, G)`."""
        size, encoder = self.embedding_size * _PATCH_SIZE, self.prompt_encoder
        points = labels = boxes = None
        if num_points:
            points = prompts.points[:, None, :num_points] * size - _HALF_PIXEL
            labels = prompts.point_labels[:, None, :num_points]
        if has_box:
            boxes = box_cxcywh_to_xyxy(prompts.boxes)[:, None] * size - _HALF_PIXEL
        sparse, dense = encoder(points, labels, boxes, None)
        vectors = prompts.vectors
        if vectors is not None:
            vectors = vectors[:, None]
            sparse = vectors if sparse is None else torch.cat([sparse, vectors.to(sparse)], dim=2)
        if sparse is None:
            # A mask alone. The padding point of prompts without a box keeps the number of tokens above zero.
            sparse = encoder.not_a_point_embed.weight.expand(len(prompts.image_index), 1, 1, -1)
        dense = dense[:1].expand(len(prompts.image_index), -1, -1, -1)
        if prompts.masks is not None:
            # Masks are often float32, as losses and resizing want them, whatever the model computes in.
            given = encoder.mask_embed(prompts.masks[:, None].to(encoder.mask_embed.conv1.weight.dtype))
            has_mask = prompts.has_mask
            dense = given if has_mask is None else torch.where(has_mask[:, None, None, None], given, dense)
        return sparse, dense

    def image_positions(self) -> Tensor:
        """The position code of the embedding `(1, C, G, G)`."""
        code = self.prompt_encoder.shared_embedding
        steps = torch.arange(self.embedding_size, device=code.positional_embedding.device) + _HALF_PIXEL
        steps = (steps / self.embedding_size).to(code.positional_embedding.dtype)
        y, x = torch.meshgrid(steps, steps, indexing="ij")
        return code(torch.stack([x, y], dim=-1)[None]).permute(0, 3, 1, 2)


def init_mask_decoder_weights(decoder: PromptedMaskDecoder) -> None:
    """Draw the code of positions: the wavelength that SAM has, whatever the width of the vision encoder."""
    init.normal_(decoder.prompt_encoder.shared_embedding.positional_embedding, std=1.0)


def _loaded_tables(module: nn.Module) -> ExitStack:
    """A context in which tables of vectors have their weights, also where they are offloaded.

    SAM's parts read these weights without a call of their modules, at which accelerate's hooks would load them.
    """
    stack = ExitStack()
    for table in module.modules():
        hook = getattr(table, "_hf_hook", None)
        if hook is not None and isinstance(table, (nn.Embedding, SamPositionalEmbedding)):
            hook.pre_forward(table)
            stack.callback(hook.post_forward, table, None)
    return stack


def _prompt_encoder_config(config: MaskDecoderConfig, embedding_size: int) -> SamConfig:
    """SAM's configuration for its prompt encoder, which reads the vision encoder's for the code of positions."""
    vision = SamVisionConfig(hidden_size=2, num_attention_heads=1, num_pos_feats=config.hidden_size // 2)
    prompts = SamPromptEncoderConfig(
        hidden_size=config.hidden_size,
        image_size=embedding_size * _PATCH_SIZE,
        patch_size=_PATCH_SIZE,
        mask_input_channels=config.mask_input_channels,
    )
    return SamConfig(vision_config=vision, prompt_encoder_config=prompts)


def _build_mask_decoder(config: MaskDecoderConfig) -> SamMaskDecoder | Sam2MaskDecoder:
    names = (
        "hidden_size",
        "hidden_act",
        "mlp_dim",
        "num_hidden_layers",
        "num_attention_heads",
        "attention_downsample_rate",
        "num_multimask_outputs",
        "iou_head_depth",
        "iou_head_hidden_dim",
    )
    settings = {name: getattr(config, name) for name in names}
    attention = "eager" if config._attn_implementation == "eager" else "sdpa"
    if not config.use_skip_maps:
        decoder_config = SamMaskDecoderConfig(**settings, layer_norm_eps=config.layer_norm_eps)
        decoder_config._attn_implementation = attention
        return SamMaskDecoder(decoder_config)
    decoder_config = Sam2MaskDecoderConfig(**settings, dynamic_multimask_via_stability=False)
    decoder_config._attn_implementation = attention
    decoder = Sam2MaskDecoder(decoder_config)
    # SAM 2's layers have a fixed activation, whatever their configuration says.
    for layer in decoder.transformer.layers:
        layer.mlp.activation = ACT2FN[config.hidden_act]
    # The skip maps come in the widths that these would make.
    del decoder.conv_s0, decoder.conv_s1
    # In a video it says whether the object is there at all. In an image what is pointed at is there.
    decoder.pred_obj_score_head = nn.Identity()
    return decoder


__all__ = [
    "MaskEmbedding",
    "MaskPredictions",
    "MaskPrompts",
    "PromptedMaskDecoder",
    "init_mask_decoder_weights",
]
