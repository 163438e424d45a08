"""Groma's mask decoder: a neck over the vision encoder's maps and the pixels, and prompts made of regions."""

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.models.sam.modeling_sam import SamLayerNorm

from ..modeling_mask_decoder import (
    MaskEmbedding,
    MaskPredictions,
    MaskPrompts,
    PromptedMaskDecoder,
    init_mask_decoder_weights,
)
from ..modeling_ops import computing_dtype
from .configuration_groma import GromaMaskDecoderConfig

# Pixels of the image for each position of the embedding. Masks are 4 times finer.
EMBEDDING_STRIDE = 8
_NORM_GROUPS = 8


class GromaMaskNeck(nn.Module):
    """Makes the decoder's image embedding, at 1/8 of the image, and finer maps of the pixels.

    The patch grid says what is where and blurs outlines; a few strided convolutions on the pixels sharpen them.

    Args:
        config (`GromaMaskDecoderConfig`): sizes.
        vision_hidden_size (`int`): width of the vision encoder.
        num_channels (`int`): channels of the image.
    """

    def __init__(self, config: GromaMaskDecoderConfig, vision_hidden_size: int, num_channels: int = 3):
        super().__init__()
        width, num_maps = config.hidden_size, len(config.vision_feature_layers)
        self.norms = nn.ModuleList(
            [SamLayerNorm(vision_hidden_size, data_format="channels_first") for _ in range(num_maps)]
        )
        self.projection = nn.Conv2d(num_maps * vision_hidden_size, width, kernel_size=1)
        widths = (num_channels, width // 4, width // 2, width)
        self.stem = nn.ModuleList([_strided_convolution(widths[i], widths[i + 1]) for i in range(len(widths) - 1)])
        self.refinement = nn.Sequential(
            nn.Conv2d(width, width, kernel_size=3, padding=1),
            nn.GroupNorm(_NORM_GROUPS, width),
            nn.GELU(),
            nn.Conv2d(width, width, kernel_size=3, padding=1),
        )
        self.skips = nn.ModuleList()
        if config.use_skip_maps:
            self.skips.extend(nn.Conv2d(widths[i], width // factor, kernel_size=1) for i, factor in ((1, 8), (2, 4)))

    def forward(self, feature_maps: list[Tensor], pixel_values: Tensor) -> MaskEmbedding:
        """Make the embedding of images.

        Args:
            feature_maps (`list[Tensor]`, each of shape `(B, vision_hidden_size, grid, grid)`): of the vision encoder.
            pixel_values (`Tensor` of shape `(B, 3, S, S)`): the same images.

        Returns:
            `MaskEmbedding`: `image` `(B, C, S / 8, S / 8)` and, as configured, its skip maps.
        """
        dtype = computing_dtype(self, pixel_values.dtype)
        maps = []
        level = pixel_values.to(dtype)
        for layer in self.stem:
            level = layer(level)
            maps.append(level)
        patches = [norm(feature_map.to(dtype)) for norm, feature_map in zip(self.norms, feature_maps, strict=True)]
        projected = self.projection(torch.cat(patches, dim=1))
        size = level.shape[-2:]
        image = nn.functional.interpolate(projected.float(), size=size, mode="bilinear", align_corners=False)
        image = image.to(dtype) + level
        image = image + self.refinement(image)
        if not len(self.skips):
            return MaskEmbedding(image)
        return MaskEmbedding(image, tuple(conv(skip) for conv, skip in zip(self.skips, maps, strict=False)))


class GromaMaskDecoder(nn.Module):
    """The neck, the projection of region tokens, and the promptable decoder.

    Args:
        config (`GromaMaskDecoderConfig`): sizes.
        vision_hidden_size (`int`): width of the vision encoder.
        image_size (`int`): side of the image in pixels, a multiple of 8.
        region_hidden_size (`int`, *optional*): width of region tokens; a detector has none.
    """

    def __init__(
        self,
        config: GromaMaskDecoderConfig,
        vision_hidden_size: int,
        image_size: int,
        region_hidden_size: int | None = None,
    ):
        super().__init__()
        if image_size % EMBEDDING_STRIDE != 0:
            raise ValueError(
                f"A mask decoder needs images whose side is a multiple of {EMBEDDING_STRIDE} pixels, and "
                f"`vision_config.image_size` is {image_size}."
            )
        self.config = config
        self.neck = GromaMaskNeck(config, vision_hidden_size)
        self.decoder = PromptedMaskDecoder(config, image_size // EMBEDDING_STRIDE)
        # Every prompt has a vector for its region token, so that prompts with and without one look alike.
        self.no_region_embed = nn.Parameter(torch.randn(1, config.hidden_size))
        self.region_projection = None
        if region_hidden_size is not None:
            self.region_projection = nn.Linear(region_hidden_size, config.hidden_size)

    def embed(self, feature_maps: list[Tensor], pixel_values: Tensor) -> MaskEmbedding:
        """Make the embedding of images; see [`GromaMaskNeck`]."""
        return self.neck(feature_maps, pixel_values)

    def forward(
        self,
        embedding: MaskEmbedding,
        prompts: MaskPrompts,
        region_tokens: Tensor | None = None,
        has_token: Tensor | None = None,
        multimask: bool = False,
    ) -> MaskPredictions:
        """Decode the masks of prompts.

        Args:
            embedding (`MaskEmbedding`): of the images, from [`embed`].
            prompts (`MaskPrompts`): N prompts without `vectors`.
            region_tokens (`Tensor` of shape `(N, region_hidden_size)`, *optional*): what the region encoder made of
                the boxes.
            has_token (`Tensor` of shape `(N,)`, bool, *optional*): which prompts have a token; all by default.
            multimask (`bool`): several masks for each prompt.

        Returns:
            `MaskPredictions`: `logits` `(N, M, h, w)` and `quality` `(N, M)`.

        Raises:
            ValueError: see [`PromptedMaskDecoder`]; tokens for a decoder that reads none.
        """
        vectors = self.no_region_embed.expand(len(prompts.image_index), -1)
        if region_tokens is not None:
            if self.region_projection is None:
                raise ValueError("`region_tokens` are not read by the mask decoder of a detector.")
            projected = self.region_projection(region_tokens.to(vectors.dtype))
            vectors = projected if has_token is None else torch.where(has_token[:, None], projected, vectors)
        return self.decoder(embedding, prompts._replace(vectors=vectors[:, None]), multimask)


def init_groma_mask_decoder_weights(decoder: GromaMaskDecoder) -> None:
    """Initialise a fresh mask decoder as torch does its layers: the library's small weights would learn slowly.

    All of it hangs on the decoder: for code outside of transformers the library skips modules without own parameters.
    """
    init.normal_(decoder.no_region_embed)
    for module in decoder.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
            init.kaiming_uniform_(module.weight, a=5**0.5)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight)
    init_mask_decoder_weights(decoder.decoder)


def _strided_convolution(in_channels: int, out_channels: int) -> nn.Sequential:
    """A convolution that halves the map."""
    groups = _NORM_GROUPS if out_channels % _NORM_GROUPS == 0 else 1
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=2, padding=1),
        nn.GroupNorm(groups, out_channels),
        nn.GELU(),
    )


__all__ = [
    "GromaMaskDecoder",
    "GromaMaskNeck",
    "init_groma_mask_decoder_weights",
]
