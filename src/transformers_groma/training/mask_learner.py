"""The trained part of a mask decoder's training: frozen features in, the loss of masks out."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..exact_boxes import boxes_to_bits, exact_boxes
from ..models.groma.modeling_groma import GromaForConditionalGeneration
from ..models.groma.modeling_groma_detector import GromaForRegionProposal
from ..models.modeling_mask_decoder import MaskEmbedding, MaskPrompts
from ..models.modeling_parts import no_autocast
from .mask_losses import best_of_several, covered_pixels, mask_losses
from .mask_prompts import append_points, error_clicks

# Logits of a mask that is a prompt for the next round: surer ones say nothing more.
MAX_PROMPT_LOGIT = 32.0


class MaskLearner(nn.Module):
    """The parts of a model that train its mask decoder; the trainer moves, wraps and trains this module.

    The mask decoder learns; vision encoder and region encoder are frozen. The language model and the region proposer
    are not among the parts: they never run, and stay wherever they are.

    Args:
        model (`GromaForConditionalGeneration` or `GromaForRegionProposal`): with a mask decoder; changed in place: all
            its other weights are frozen.
        bce_weight, dice_weight, quality_weight (`float`): weights of the losses.
        best_share (`float`): of several masks for a click, how much the best one learns, see `best_of_several`.

    Attributes:
        model: the whole model, which is not a part of this module.
    """

    # The loss is a mean over the prompts of a batch; `Trainer` must not rescale it.
    accepts_loss_kwargs = False

    def __init__(
        self,
        model: GromaForConditionalGeneration | GromaForRegionProposal,
        bce_weight: float = 10.0,
        dice_weight: float = 1.0,
        quality_weight: float = 1.0,
        best_share: float = 0.9,
    ):
        super().__init__()
        self.bce_weight, self.dice_weight, self.quality_weight = bce_weight, dice_weight, quality_weight
        self.best_share = best_share
        # Set without `nn.Module`, which would register it as a part.
        self.__dict__["model"] = model
        self.__dict__["vision"] = getattr(model, "model", model)
        model.requires_grad_(False)
        self.vision_tower = self.vision.vision_tower
        self.region_encoder = getattr(self.vision, "region_encoder", None)
        self.mask_decoder = self.vision.mask_decoder.requires_grad_(True)

    def forward(
        self,
        pixel_values: Tensor,
        image_index: Tensor,
        boxes: Tensor,
        points: Tensor,
        point_labels: Tensor,
        has_token: Tensor,
        is_ambiguous: Tensor,
        targets: Tensor,
        error_draws: Tensor,
    ) -> dict[str, Tensor]:
        """Decode the masks of prompts and compare them with the true ones.

        After the first masks come rounds of correction: some of the prompts get their mask as a prompt and one more
        point where it is wrong.

        Args:
            pixel_values (`Tensor` of shape `(B, 3, image_size, image_size)`): images.
            image_index (`Tensor` of shape `(N,)`, int64): the image of each prompt; those of an image together.
            boxes (`Tensor` of shape `(N, 4)`): normalized `cxcywh`, as floats or bits; zeros for prompts by points.
            points (`Tensor` of shape `(N, P, 2)`): normalized `(x, y)`.
            point_labels (`Tensor` of shape `(N, P)`, int64): 1 on the object, 0 off it, -1 for padding, which is last.
            has_token (`Tensor` of shape `(N,)`, bool): which boxes come with their region tokens.
            is_ambiguous (`Tensor` of shape `(N,)`, bool): which prompts get several masks, if the decoder makes them;
                the best one learns, and the quality of all.
            targets (`Tensor` of shape `(N, H, W)`): the true masks, the covered share of each pixel; at least as fine
                as the decoder's, which are enlarged to them.
            error_draws (`Tensor` of shape `(N, rounds)`): random numbers in 0..1, which choose among the wrong pixels
                of a round; a negative one leaves the prompt out of it.

        Returns:
            `dict`: `loss`, the sum over all decoded prompts divided by the number of prompts; `loss_bce`, `loss_dice`,
            `loss_quality` and `iou`, means over the first masks, without gradients; and the `logits` `(N, h, w)` of
            the first masks, of several the best by its estimated quality.
        """
        boxes = exact_boxes(boxes)
        maps, tokens = self._see(pixel_values, image_index, boxes, has_token)
        embedding = self.mask_decoder.embed(maps, pixel_values)
        prompts = _Prompts(MaskPrompts(image_index, boxes, points, point_labels), tokens, has_token, targets)
        first = self._decode(embedding, prompts, is_ambiguous & bool(self.mask_decoder.config.num_multimask_outputs))
        # A batch without any prompt still has a gradient, of zeros, for the other processes.
        total = first.loss.sum() + 0.0 * embedding.image.sum()
        total = total + self._corrected(embedding, prompts, first.logits, error_draws)
        count = max(1, len(targets))
        return {
            "loss": total / count,
            **{name: value.detach().sum() / count for name, value in first.parts.items()},
            "logits": first.logits.detach(),
        }

    @torch.no_grad()
    def _see(
        self, pixel_values: Tensor, image_index: Tensor, boxes: Tensor, has_token: Tensor
    ) -> tuple[list[Tensor], Tensor | None]:
        """The maps that the decoder reads, and the region tokens `(N, D)` of boxes; zeros for prompts without one."""
        # As the model sees images in use: without autocast.
        with no_autocast(pixel_values):
            hidden_states = self.vision.encode_patches(pixel_values).hidden_states
            maps = self.vision.mask_feature_maps(hidden_states)
            if self.region_encoder is None or not has_token.any():
                return maps, None
            # Only images with such boxes. The prompts of an image are together, so its rows count up from its first.
            rows = has_token.nonzero()[:, 0]
            images, place, counts = image_index[rows].unique_consecutive(return_inverse=True, return_counts=True)
            slot = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[place]
            slots = boxes.new_zeros(len(images), int(counts.max()), 4)
            slots[place, slot] = boxes[rows]
            used = torch.zeros(slots.shape[:2], dtype=torch.bool, device=slots.device)
            used[place, slot] = True
            layers = self.vision.config.region_encoder_config.vision_feature_layers
            region_maps = [self.vision.feature_map(hidden_states[layer])[images] for layer in layers]
            encoded = self.region_encoder(region_maps, boxes_to_bits(slots), used)
            tokens = encoded.new_zeros(len(boxes), encoded.shape[-1])
            tokens[rows] = encoded[place, slot]
            return maps, tokens

    def _decode(self, embedding: MaskEmbedding, prompts: "_Prompts", is_ambiguous: Tensor | None = None) -> "_Decoded":
        """Decode each prompt once; ambiguous ones get several masks."""
        if is_ambiguous is None or not is_ambiguous.any():
            return self._decode_alike(embedding, prompts, multimask=False)
        rows = [chosen.nonzero()[:, 0] for chosen in (~is_ambiguous, is_ambiguous)]
        pieces = [self._decode_alike(embedding, prompts.rows(part), bool(i)) for i, part in enumerate(rows)]
        order = torch.cat(rows).argsort()
        names = pieces[0].parts
        return _Decoded(
            torch.cat([piece.loss for piece in pieces])[order],
            torch.cat([piece.logits for piece in pieces])[order],
            {name: torch.cat([piece.parts[name] for piece in pieces])[order] for name in names},
        )

    def _decode_alike(self, embedding: MaskEmbedding, prompts: "_Prompts", multimask: bool) -> "_Decoded":
        tokens, has_token = (None, None) if prompts.tokens is None else (prompts.tokens, prompts.has_token)
        logits, quality = self.mask_decoder(embedding, prompts.inputs, tokens, has_token, multimask)
        losses = mask_losses(_enlarged(logits, prompts.targets), quality, prompts.targets)
        of_masks = self.bce_weight * losses.bce + self.dice_weight * losses.dice
        of_masks = best_of_several(of_masks, self.best_share) if multimask else of_masks[:, 0]
        loss = of_masks + self.quality_weight * losses.quality.mean(dim=1)
        rows, best = torch.arange(len(quality), device=quality.device), quality.argmax(dim=1)
        parts = {"loss_bce": losses.bce, "loss_dice": losses.dice, "loss_quality": losses.quality, "iou": losses.iou}
        return _Decoded(loss, logits[rows, best], {name: values[rows, best] for name, values in parts.items()})

    def _corrected(
        self, embedding: MaskEmbedding, prompts: "_Prompts", logits: Tensor, error_draws: Tensor
    ) -> Tensor | float:
        """The loss of masks that were corrected by clicks, round by round."""
        total = 0.0
        for number in range(error_draws.shape[1]):
            continues = (error_draws[:, number] >= 0).nonzero()[:, 0]
            if len(continues) == 0:
                break
            prompts, error_draws = prompts.rows(continues), error_draws[continues]
            logits = logits[continues].detach()
            clicks = error_clicks(
                _enlarged(logits[:, None], prompts.targets)[:, 0],
                covered_pixels(prompts.targets),
                error_draws[:, number],
            )
            points, labels = append_points(prompts.inputs.points, prompts.inputs.point_labels, *clicks)
            masks = logits.float().clamp(-MAX_PROMPT_LOGIT, MAX_PROMPT_LOGIT)
            inputs = prompts.inputs._replace(points=points, point_labels=labels, masks=masks)
            prompts = prompts._replace(inputs=inputs)
            decoded = self._decode(embedding, prompts)
            total = total + decoded.loss.sum()
            logits = decoded.logits
        return total


def _enlarged(logits: Tensor, targets: Tensor) -> Tensor:
    """Masks `(N, M, h, w)` at the size of the true ones, enlarged as they are in use."""
    return nn.functional.interpolate(logits.float(), size=targets.shape[-2:], mode="bilinear", align_corners=False)


class _Prompts(NamedTuple):
    """N prompts with what belongs to them: region tokens `(N, D)`, and the true masks `(N, H, W)`."""

    inputs: MaskPrompts
    tokens: Tensor | None
    has_token: Tensor
    targets: Tensor

    def rows(self, index: Tensor) -> "_Prompts":
        tokens = None if self.tokens is None else self.tokens[index]
        return _Prompts(self.inputs.rows(index), tokens, self.has_token[index], self.targets[index])


class _Decoded(NamedTuple):
    """The loss `(N,)` of N prompts, their masks `(N, h, w)`, of several the best, and of these the parts `(N,)`."""

    loss: Tensor
    logits: Tensor
    parts: dict[str, Tensor]


__all__ = ["MaskLearner"]
