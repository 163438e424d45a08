"""The region proposer: a class-agnostic, two-stage Deformable DETR on the patches of a ViT (paper section 3.1)."""

import math
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.modeling_outputs import ModelOutput
from transformers.models.convnext.modeling_convnext import ConvNextLayerNorm
from transformers.models.deformable_detr.modeling_deformable_detr import (
    DeformableDetrDecoderLayer,
    DeformableDetrEncoder,
    DeformableDetrEncoderLayer,
    DeformableDetrMLPPredictionHead,
    DeformableDetrMultiscaleDeformableAttention,
    DeformableDetrSinePositionEmbedding,
    inverse_sigmoid,
)

from ..modeling_ops import GromaMultiScaleDeformableAttention, computing_dtype
from .configuration_groma import GromaProposerConfig
from .modeling_groma_regions import fuse_scores

# Side of the smallest level's proposals as a fraction of the image; doubles with every level (Deformable DETR).
PROPOSAL_BASE_SIZE = 0.05


@dataclass
class GromaRegionProposerOutput(ModelOutput):
    """The proposals of a batch of images, and what they were computed from. Boxes are normalized `cxcywh`, float32.

    `Q` is `num_queries`, `L` the number of decoder layers, `N` the number of encoder tokens.

    Attributes:
        pred_boxes (`Tensor` of shape `(B, Q, 4)`): boxes of the last decoder layer.
        scores (`Tensor` of shape `(B, Q)`): objectness fused from both heads.
        logits_coco, logits_sa1b (`Tensor` of shape `(B, Q, 1)`): objectness logits of the last layer.
        all_pred_boxes (`Tensor` of shape `(B, L, Q, 4)`): boxes of every decoder layer.
        all_logits_coco, all_logits_sa1b (`Tensor` of shape `(B, L, Q, 1)`): objectness logits of every decoder layer.
        decoder_hidden_states (`Tensor` of shape `(B, L, Q, d_model)`): queries after every decoder layer.
        init_reference_points (`Tensor` of shape `(B, Q, 4)`): the encoder's best proposals.
        topk_proposals (`Tensor` of shape `(B, Q)`, int64): the encoder tokens that they come from, best first.
        encoder_last_hidden_state (`Tensor` of shape `(B, N, d_model)`): encoder tokens, finest level first.
        encoder_logits (`Tensor` of shape `(B, N, 1)`): objectness of every encoder token.
        encoder_box_logits (`Tensor` of shape `(B, N, 4)`): inverse sigmoid of its `cxcywh` box; inf at the border.
    """

    pred_boxes: Tensor | None = None
    scores: Tensor | None = None
    logits_coco: Tensor | None = None
    logits_sa1b: Tensor | None = None
    all_pred_boxes: Tensor | None = None
    all_logits_coco: Tensor | None = None
    all_logits_sa1b: Tensor | None = None
    decoder_hidden_states: Tensor | None = None
    init_reference_points: Tensor | None = None
    topk_proposals: Tensor | None = None
    encoder_last_hidden_state: Tensor | None = None
    encoder_logits: Tensor | None = None
    encoder_box_logits: Tensor | None = None


def build_input_projections(num_levels: int, vision_hidden_size: int, d_model: int) -> nn.ModuleList:
    """Projections from the patch grid to 1 to 4 feature maps, finest first (ViTDet's simple feature pyramid).

    Their sides, as multiples of the grid's: 1; 1, 1/2; 2, 1, 1/2; or 4, 2, 1, 1/2.
    """

    def norm(channels: int) -> ConvNextLayerNorm:
        return ConvNextLayerNorm(channels, eps=1e-6, data_format="channels_first")

    same = [nn.Conv2d(vision_hidden_size, d_model, kernel_size=1), norm(d_model)]
    if num_levels == 1:
        return nn.ModuleList([nn.Sequential(*same)])
    half = [nn.Conv2d(vision_hidden_size, d_model, kernel_size=3, stride=2, padding=1), norm(d_model)]
    double = [
        nn.ConvTranspose2d(vision_hidden_size, d_model // 2, kernel_size=2, stride=2),
        nn.Conv2d(d_model // 2, d_model, kernel_size=1),
        norm(d_model),
        nn.Conv2d(d_model, d_model, kernel_size=3, padding=1),
    ]
    four_times = [
        nn.ConvTranspose2d(vision_hidden_size, d_model // 2, kernel_size=2, stride=2),
        norm(d_model // 2),
        nn.GELU(),
        nn.ConvTranspose2d(d_model // 2, d_model // 4, kernel_size=2, stride=2),
        nn.Conv2d(d_model // 4, d_model, kernel_size=1),
        norm(d_model),
        nn.Conv2d(d_model, d_model, kernel_size=3, padding=1),
    ]
    levels = [four_times, double, same, half][-num_levels:]
    return nn.ModuleList([nn.Sequential(*level) for level in levels])


class GromaRegionProposer(nn.Module):
    """Two-stage Deformable DETR with mixed query selection and two objectness heads.

    Positions of the decoder's queries come from the encoder's best proposals, their content is learned. Half of the
    training images have COCO-style boxes and half SA-1B boxes, so each decoder layer has a head for either kind.

    Args:
        config (`GromaProposerConfig`): sizes.
        vision_hidden_size (`int`): width of the vision encoder.

    Example:

    ```python
    >>> import torch
    >>> from transformers_groma import GromaProposerConfig
    >>> from transformers_groma.models.groma.modeling_groma_proposer import GromaRegionProposer

    >>> config = GromaProposerConfig(d_model=32, num_queries=10, encoder_layers=1, decoder_layers=2)
    >>> proposer = GromaRegionProposer(config, vision_hidden_size=48).eval()
    >>> proposer(torch.zeros(1, 48, 8, 8)).pred_boxes.shape
    torch.Size([1, 10, 4])
    ```"""

    def __init__(self, config: GromaProposerConfig, vision_hidden_size: int):
        super().__init__()
        self.config = config
        d_model, num_layers = config.d_model, config.decoder_layers
        self.input_proj = build_input_projections(config.num_feature_levels, vision_hidden_size, d_model)
        self.position_embedding = DeformableDetrSinePositionEmbedding(d_model // 2, normalize=True)
        self.level_embed = nn.Parameter(torch.zeros(config.num_feature_levels, d_model))
        with warnings.catch_warnings():
            # Advice about CUDA code that is not used: our own layer replaces that attention below.
            warnings.filterwarnings("ignore", message="You'd better set embed_dim", category=UserWarning)
            self.encoder_layers = nn.ModuleList(
                [DeformableDetrEncoderLayer(config) for _ in range(config.encoder_layers)]
            )
            self.decoder_layers = nn.ModuleList([DeformableDetrDecoderLayer(config) for _ in range(num_layers)])
        for layer in self.encoder_layers:
            layer.self_attn.attn = GromaMultiScaleDeformableAttention()
        for layer in self.decoder_layers:
            layer.encoder_attn.attn = GromaMultiScaleDeformableAttention()
        self.enc_output = nn.Linear(d_model, d_model)
        self.enc_output_norm = nn.LayerNorm(d_model)
        # Named and shaped as in Deformable DETR, so that checkpoints fit; `_decode` uses the first half of the output.
        self.pos_trans = nn.Linear(2 * d_model, 2 * d_model)
        self.pos_trans_norm = nn.LayerNorm(2 * d_model)
        self.query_position_embeddings = nn.Embedding(config.num_queries, d_model)
        # One more box head than decoder layers: the last one is the encoder's.
        self.bbox_embed = nn.ModuleList(
            [
                DeformableDetrMLPPredictionHead(d_model, config.bbox_head_hidden_size, 4, 3)
                for _ in range(num_layers + 1)
            ]
        )
        self.class_embed_enc = nn.Linear(d_model, 1)
        self.class_embed_coco = nn.ModuleList([nn.Linear(d_model, 1) for _ in range(num_layers)])
        self.class_embed_sa1b = nn.ModuleList([nn.Linear(d_model, 1) for _ in range(num_layers)])

    def forward(self, feature_map: Tensor) -> GromaRegionProposerOutput:
        """Propose regions.

        Args:
            feature_map (`Tensor` of shape `(B, vision_hidden_size, grid, grid)`): patches of the vision encoder.

        Returns:
            `GromaRegionProposerOutput`.

        Raises:
            ValueError: if the encoder has fewer tokens than `num_queries`.
        """
        feature_map = feature_map.to(computing_dtype(self, feature_map.dtype))
        maps = [projection(feature_map) for projection in self.input_proj]
        spatial_shapes_list = [tuple(level.shape[-2:]) for level in maps]
        num_tokens = sum(height * width for height, width in spatial_shapes_list)
        if num_tokens < self.config.num_queries:
            raise ValueError(
                f"`num_queries` ({self.config.num_queries}) is more than the {num_tokens} encoder tokens of this "
                "image size. Lower `proposer_config.num_queries` or use a finer grid."
            )
        geometry = {
            "spatial_shapes": torch.tensor(spatial_shapes_list, device=feature_map.device),
            "spatial_shapes_list": spatial_shapes_list,
            "level_start_index": torch.tensor(_level_starts(spatial_shapes_list), device=feature_map.device),
        }
        hidden_states = self._encode(maps, geometry)

        # First stage: every encoder token proposes a box, as a correction of the one that its place in the grid gives.
        # The `num_queries` of the highest objectness are where the decoder starts. Tokens at the border (`inside` is
        # False) get zeros for features and inf for box logits, so theirs is the box (1, 1, 1, 1).
        proposals, inside = _grid_proposals(spatial_shapes_list, feature_map.device)
        object_query = self.enc_output_norm(self.enc_output(hidden_states * inside[..., None].to(hidden_states.dtype)))
        encoder_logits = self.class_embed_enc(object_query)
        encoder_box_logits = self.bbox_embed[-1](object_query).float() + proposals
        # topk (B, Q) names encoder tokens; their boxes (B, Q, 4) are gathered. Detached: the proposals have losses of
        # their own, and the decoder's leave them alone.
        topk = encoder_logits[..., 0].float().topk(self.config.num_queries, dim=1).indices
        topk_box_logits = encoder_box_logits.gather(1, topk[..., None].expand(-1, -1, 4)).detach()

        layers = self._decode(hidden_states, topk_box_logits, geometry)
        all_boxes, all_coco, all_sa1b, all_hidden_states = (
            torch.stack(parts, dim=1) for parts in zip(*layers, strict=True)
        )
        return GromaRegionProposerOutput(
            pred_boxes=all_boxes[:, -1],
            scores=fuse_scores(all_coco[:, -1, :, 0], all_sa1b[:, -1, :, 0], self.config.coco_score_weight),
            logits_coco=all_coco[:, -1],
            logits_sa1b=all_sa1b[:, -1],
            all_pred_boxes=all_boxes,
            all_logits_coco=all_coco,
            all_logits_sa1b=all_sa1b,
            decoder_hidden_states=all_hidden_states,
            init_reference_points=topk_box_logits.sigmoid(),
            topk_proposals=topk,
            encoder_last_hidden_state=hidden_states,
            encoder_logits=encoder_logits,
            encoder_box_logits=encoder_box_logits,
        )

    def _encode(self, maps: list[Tensor], geometry: dict) -> Tensor:
        """Flatten maps `(B, d_model, H, W)` to encoder tokens `(B, N, d_model)`, level by level, row by row."""
        positions = [
            self.position_embedding(level.shape, level.device, torch.float32).flatten(2).transpose(1, 2)
            + self.level_embed[index].float()
            for index, level in enumerate(maps)
        ]
        hidden_states = torch.cat([level.flatten(2).transpose(1, 2) for level in maps], dim=1)
        positions = torch.cat(positions, dim=1).to(hidden_states.dtype)
        hidden_states = nn.functional.dropout(hidden_states, p=self.config.dropout, training=self.training)
        # The image fills its maps, nothing is padded: all of each map is valid.
        valid_ratios = hidden_states.new_ones((hidden_states.shape[0], len(maps), 2), dtype=torch.float32)
        reference_points = DeformableDetrEncoder.get_reference_points(
            geometry["spatial_shapes_list"], valid_ratios, hidden_states.device
        )
        for layer in self.encoder_layers:
            # By position: reentrant gradient checkpointing only follows positional arguments.
            hidden_states = layer(
                hidden_states,
                None,
                positions,
                reference_points,
                geometry["spatial_shapes"],
                geometry["spatial_shapes_list"],
                geometry["level_start_index"],
            )
        return hidden_states

    def _decode(self, encoder_hidden_states: Tensor, box_logits: Tensor, geometry: dict) -> list[tuple[Tensor, ...]]:
        """Boxes, both logits and hidden states of every decoder layer, from the inverse sigmoid of the first boxes."""
        # The embedding is called instead of reading its weight: offloaded weights are loaded when their layer runs.
        queries = self.query_position_embeddings(torch.arange(self.config.num_queries, device=box_logits.device))
        hidden_states = queries.expand(box_logits.shape[0], -1, -1)
        code = box_position_code(box_logits.sigmoid(), self.config.d_model // 2).to(hidden_states.dtype)
        # Only the first half is used: in Deformable DETR the second half is the query's content, learned here.
        query_positions = self.pos_trans_norm(self.pos_trans(code))[..., : self.config.d_model]

        num_levels = self.config.num_feature_levels
        # A layer samples around `sampling_boxes`, without a gradient. Its box head corrects `previous_boxes`, with the
        # gradient of the layer before: its loss trains these two box heads, no others (DINO's "look forward twice").
        sampling_boxes = box_logits.sigmoid()
        previous_boxes = sampling_boxes
        outputs = []
        for index, layer in enumerate(self.decoder_layers):
            hidden_states = layer(
                hidden_states,
                query_positions,
                sampling_boxes[:, :, None].expand(-1, -1, num_levels, -1),
                geometry["spatial_shapes"],
                geometry["spatial_shapes_list"],
                geometry["level_start_index"],
                encoder_hidden_states,
            )
            delta = self.bbox_embed[index](hidden_states).float()
            boxes = (delta + inverse_sigmoid(previous_boxes)).sigmoid()
            outputs.append(
                (
                    boxes,
                    self.class_embed_coco[index](hidden_states),
                    self.class_embed_sa1b[index](hidden_states),
                    hidden_states,
                )
            )
            previous_boxes = (delta + inverse_sigmoid(sampling_boxes)).sigmoid()
            if self.config.refine_reference_points:
                sampling_boxes = previous_boxes.detach()
        return outputs


def box_position_code(boxes: Tensor, num_features: int) -> Tensor:
    """Encode boxes as sines and cosines: `num_features` numbers for each of cx, cy, w, h.

    Args:
        boxes (`Tensor` of shape `(..., 4)`): normalized `cxcywh`.
        num_features (`int`): features of each coordinate, an even number.

    Returns:
        `Tensor` of shape `(..., 4 * num_features)`, float32.

    Example:
    >>> box_position_code(torch.zeros(1, 4), 2).tolist()
    [[0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0]]
    """
    # Features come in pairs, the sine and the cosine of one frequency.
    index = torch.arange(num_features, device=boxes.device, dtype=torch.float32)
    frequencies = 10000 ** (2 * torch.div(index, 2, rounding_mode="floor") / num_features)
    angles = boxes.float()[..., None] * (2 * math.pi) / frequencies
    return torch.stack([angles[..., 0::2].sin(), angles[..., 1::2].cos()], dim=-1).flatten(-3)


def _level_starts(spatial_shapes: list[tuple[int, int]]) -> list[int]:
    """Which encoder token each level starts with."""
    starts = [0]
    for height, width in spatial_shapes[:-1]:
        starts.append(starts[-1] + height * width)
    return starts


def _grid_proposals(spatial_shapes: list[tuple[int, int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """A box at every encoder token, as inverse sigmoid of normalized `cxcywh`, and which of them are inside the image.

    Boxes with a coordinate outside of (0.01, 0.99) are not proposals: their logits are inf.
    """
    proposals = []
    for level, (height, width) in enumerate(spatial_shapes):
        y, x = torch.meshgrid(
            (torch.arange(height, dtype=torch.float32, device=device) + 0.5) / height,
            (torch.arange(width, dtype=torch.float32, device=device) + 0.5) / width,
            indexing="ij",
        )
        size = torch.full_like(x, PROPOSAL_BASE_SIZE * 2**level)
        proposals.append(torch.stack([x, y, size, size], dim=-1).flatten(0, 1))
    boxes = torch.cat(proposals)[None]
    inside = ((boxes > 0.01) & (boxes < 0.99)).all(dim=-1)
    logits = torch.log(boxes / (1 - boxes)).masked_fill(~inside[..., None], torch.inf)
    return logits, inside


@torch.no_grad()
def init_proposer_weights(proposer: GromaRegionProposer) -> None:
    """Initialise the weights that are not drawn from a plain normal distribution (Deformable DETR's recipe).

    All of it hangs on the proposer: for code outside of transformers the library skips modules without own parameters.
    """
    init.normal_(proposer.level_embed)
    init.normal_(proposer.query_position_embeddings.weight)
    # Objectness starts at 0.01, so that the many queries on background do not swamp the focal loss.
    prior = -math.log((1 - 0.01) / 0.01)
    for head in (proposer.class_embed_enc, *proposer.class_embed_coco, *proposer.class_embed_sa1b):
        init.constant_(head.bias, prior)
    for head in proposer.bbox_embed:
        init.zeros_(head.layers[-1].weight)
        init.zeros_(head.layers[-1].bias)
    for linear in (proposer.enc_output, proposer.pos_trans):
        init.xavier_uniform_(linear.weight)
    for module in proposer.modules():
        if isinstance(module, DeformableDetrMultiscaleDeformableAttention):
            _init_deformable_attention(module)


def _init_deformable_attention(module: DeformableDetrMultiscaleDeformableAttention) -> None:
    """Sampling points start as rays from the reference point: head h in direction h, point p at distance p + 1."""
    angles = torch.arange(module.n_heads, dtype=torch.float32) * (2.0 * math.pi / module.n_heads)
    directions = torch.stack([angles.cos(), angles.sin()], dim=-1)
    # Scaled to the side of a square: diagonals reach as many pixels along each axis as the others do along theirs.
    directions = directions / directions.abs().max(dim=-1, keepdim=True).values
    distances = torch.arange(1, module.n_points + 1, dtype=torch.float32)
    offsets = directions[:, None, None, :] * distances[None, None, :, None]
    init.zeros_(module.sampling_offsets.weight)
    init.copy_(module.sampling_offsets.bias, offsets.expand(-1, module.n_levels, -1, -1).flatten())
    init.zeros_(module.attention_weights.weight)
    init.zeros_(module.attention_weights.bias)
    for projection in (module.value_proj, module.output_proj):
        init.xavier_uniform_(projection.weight)
        init.zeros_(projection.bias)


__all__ = [
    "GromaRegionProposer",
    "GromaRegionProposerOutput",
    "box_position_code",
    "build_input_projections",
    "init_proposer_weights",
]
