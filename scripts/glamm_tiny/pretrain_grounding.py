"""Pretrains glamm-tiny's grounding encoder and mask decoder on masks of shapes, as SAM knew masks before GLaMM.

    python -m scripts.glamm_tiny.pretrain_grounding OUTPUT

A prompt means an object of a synthetic scene: a box, a click, or a description. A description is one vector that says
where the object is, roughly, and how it looks. That of a group says the box around it and what its objects have in
common. The state of a [SEG] token has to say that later, so the decoder knows already how to read it.

An interrupted run resumes from its last checkpoint.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import SamVisionConfig
from transformers.models.sam.modeling_sam import SamVisionEncoder

from scripts.groma_tiny.pretraining import Pretraining, Schedule
from transformers_groma.boxes import box_cxcywh_to_xyxy, box_xyxy_to_cxcywh
from transformers_groma.models.configuration_mask_decoder import MaskDecoderConfig
from transformers_groma.models.modeling_mask_decoder import (
    MaskEmbedding,
    MaskPredictions,
    MaskPrompts,
    PromptedMaskDecoder,
    init_mask_decoder_weights,
)
from transformers_groma.shapes.expressions import some_group
from transformers_groma.shapes.scenes import ATTRIBUTE_WORDS, Attributes, Scene, make_scene
from transformers_groma.shapes.world import world_of
from transformers_groma.training.mask_losses import mask_losses
from transformers_groma.training.mask_prompts import draw_clicks, noise_box

SEED = 2
IMAGE_SIZE, PATCH_SIZE = 224, 8
GRID = IMAGE_SIZE // PATCH_SIZE
WEIGHTS = "grounding.safetensors"
SCHEDULE = Schedule(learning_rate=2e-3, steps=3600, warmup_steps=100, decay_steps=2400)
BATCH_SIZE = 4
# Prompts of each kind in an image: groups, and objects that are all different where there are enough.
PROMPTS = {"box": 1, "click": 2, "description": 3, "group": 2}
BCE_WEIGHT, DICE_WEIGHT, QUALITY_WEIGHT = 10.0, 1.0, 0.5
# The box in a description is as far off as that of a small language model, whose phrases name some attributes.
DESCRIPTION_NOISE, KNOWN_SHARE = 0.2, 0.7
# The box around a group is harder to tell. All that the group has in common is said: it tells which objects are meant.
GROUP_NOISE = 0.3
# Held-out scenes, and how often they are looked at.
WATCHED, WATCH_STEPS, LAST_WATCHED = 40, 300, 300
# SAM's colours.
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def grounding_config() -> SamVisionConfig:
    """The grounding encoder's sizes: 28 x 28 positions, two layers in windows and two over the whole image."""
    return SamVisionConfig(
        hidden_size=96,
        output_channels=64,
        num_hidden_layers=4,
        num_attention_heads=2,
        mlp_dim=192,
        image_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
        window_size=7,
        global_attn_indexes=[1, 3],
        num_pos_feats=32,
    )


def mask_decoder_config() -> MaskDecoderConfig:
    """The mask decoder's sizes: masks of 112 pixels."""
    return MaskDecoderConfig(
        hidden_size=64,
        num_attention_heads=4,
        mlp_dim=128,
        iou_head_hidden_dim=64,
        num_multimask_outputs=0,
        use_skip_maps=False,
        layer_norm_eps=1e-5,
    )


def pixels_of(scene: Scene) -> Tensor:
    """The image of a scene `(3, S, S)`, with SAM's colours."""
    pixels = torch.from_numpy(np.array(scene.draw(), dtype=np.float32))
    return ((pixels - torch.tensor(MEAN)) / torch.tensor(STD)).permute(2, 0, 1)


class Descriptions(nn.Module):
    """Turns boxes and attributes into prompt vectors for a mask decoder.

    Args:
        decoder (`PromptedMaskDecoder`): its code of positions is used for the corners.
    """

    def __init__(self, decoder: PromptedMaskDecoder):
        super().__init__()
        width = decoder.config.hidden_size
        # Not a part: it belongs to the decoder.
        self.__dict__["positions"] = decoder.prompt_encoder.shared_embedding
        self.words = nn.ModuleDict({name: nn.Embedding(len(all_), 16) for name, all_ in ATTRIBUTE_WORDS.items()})
        self.linear_1 = nn.Linear(2 * width + 4 + 16 * len(self.words), 2 * width)
        self.linear_2 = nn.Linear(2 * width, width)

    def forward(self, boxes: Tensor, attributes: Tensor) -> Tensor:
        """Prompt vectors of descriptions.

        Args:
            boxes (`Tensor` of shape `(N, 4)`): normalized `cxcywh`.
            attributes (`Tensor` of shape `(N, 4)`, int64): numbers of words, see `attribute_numbers`; -1 if not said.

        Returns:
            `Tensor` of shape `(N, C)`.
        """
        corners = self.positions(box_cxcywh_to_xyxy(boxes).view(-1, 2, 2)).flatten(1)
        said = [
            torch.where((numbers >= 0)[:, None], table(numbers.clamp(min=0)), 0.0)
            for table, numbers in zip(self.words.values(), attributes.unbind(1), strict=True)
        ]
        hidden = self.linear_1(torch.cat([corners, boxes, *said], dim=1))
        return self.linear_2(nn.functional.gelu(hidden))


def attribute_numbers(attributes: Attributes) -> list[int]:
    """The place of each attribute's word among its words; -1 for one that is not said."""
    return [
        -1 if word is None else words.index(word)
        for word, words in zip(attributes, ATTRIBUTE_WORDS.values(), strict=True)
    ]


class Described(NamedTuple):
    """What a description tells of the objects that it means.

    Attributes:
        box (`np.ndarray` of shape `(4,)`): around all of them, `xyxy` in pixels of the scene.
        attributes (`list[int]`): what they have in common, see `attribute_numbers`.
        mask (`np.ndarray`): of all of them.
    """

    box: np.ndarray
    attributes: list[int]
    mask: np.ndarray


def describe(scene: Scene, objects: Sequence[int]) -> Described:
    """What a description tells of objects of a scene."""
    items = [scene.objects[index] for index in objects]
    boxes = np.array([item.box_xyxy for item in items], dtype=np.float64)
    numbers = np.array([attribute_numbers(item.attributes) for item in items])
    return Described(
        np.concatenate([boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)]),
        np.where((numbers == numbers[0]).all(axis=0), numbers[0], -1).tolist(),
        np.any([item.mask for item in items], axis=0),
    )


def draw_group(scene: Scene, rng: np.random.Generator) -> tuple[int, ...]:
    """Some objects of a scene that have attributes in common, or any one object where no two have."""
    world = world_of(scene)
    wanted = some_group(world, rng, with_shape=False)
    return (int(rng.integers(len(scene.objects))),) if wanted is None else world.matches(wanted)


class Prompted(NamedTuple):
    """Prompts of a kind for a batch of scenes, and their masks.

    Attributes:
        image_index (`Tensor` of shape `(N,)`): the scene of each.
        boxes (`Tensor` of shape `(N, 4)`): normalized `cxcywh`.
        points (`Tensor` of shape `(N, 1, 2)`): normalized `(x, y)`.
        attributes (`Tensor` of shape `(N, 4)`): see `Descriptions`.
        targets (`Tensor` of shape `(N, M, M)`): covered shares.
    """

    image_index: Tensor
    boxes: Tensor
    points: Tensor
    attributes: Tensor
    targets: Tensor


def draw_prompts(
    scenes: Sequence[Scene], kind: str, chosen: Sequence[Sequence[tuple[int, ...]]], rng: np.random.Generator
) -> Prompted:
    """Draw prompts of a kind for chosen objects or groups of scenes, with noise in boxes and gaps in descriptions."""
    index, boxes, points, attributes, targets = [], [], [], [], []
    noise = {"box": 0.1, "description": DESCRIPTION_NOISE, "group": GROUP_NOISE}.get(kind, 0.0)
    for number, (scene, groups) in enumerate(zip(scenes, chosen, strict=True)):
        for group in groups:
            box, said, mask = describe(scene, group)
            index.append(number)
            if noise and rng.random() < 0.8:
                box = noise_box(box, rng, noise * rng.random())
            boxes.append(box / scene.image_size)
            points.append(draw_clicks(mask, 1, rng).points / scene.image_size)
            known = 1.0 if kind == "group" else KNOWN_SHARE
            attributes.append([word if rng.random() < known else -1 for word in said])
            targets.append(mask)
    side = IMAGE_SIZE // (4 * GRID)
    masks = torch.from_numpy(np.array(targets, dtype=np.float32))
    return Prompted(
        torch.tensor(index),
        box_xyxy_to_cxcywh(torch.tensor(np.array(boxes), dtype=torch.float32)),
        torch.tensor(np.array(points), dtype=torch.float32),
        torch.tensor(attributes),
        nn.functional.avg_pool2d(masks[:, None], side)[:, 0],
    )


class GroundingLearner(nn.Module):
    """A grounding encoder and a mask decoder that learn together, with the descriptions that the decoder reads."""

    def __init__(self):
        super().__init__()
        self.grounding_encoder = SamVisionEncoder(_with_attention(grounding_config()))
        nn.init.trunc_normal_(self.grounding_encoder.pos_embed, std=0.02)
        self.mask_decoder = PromptedMaskDecoder(mask_decoder_config(), GRID)
        init_mask_decoder_weights(self.mask_decoder)
        self.descriptions = Descriptions(self.mask_decoder)

    def embed(self, scenes: Sequence[Scene]) -> MaskEmbedding:
        """Encode scenes."""
        return MaskEmbedding(self.grounding_encoder(torch.stack([pixels_of(scene) for scene in scenes]))[0])

    def decode(self, embedding: MaskEmbedding, kind: str, prompted: Prompted) -> MaskPredictions:
        """Decode prompts of a kind."""
        index, boxes, points, attributes, _ = prompted
        match kind:
            case "box":
                prompts = MaskPrompts(index, boxes=boxes)
            case "click":
                prompts = MaskPrompts(index, points=points, point_labels=torch.ones_like(index)[:, None])
            case _:
                prompts = MaskPrompts(index, vectors=self.descriptions(boxes, attributes)[:, None])
        return self.mask_decoder(embedding, prompts)

    def loss(self, scenes: Sequence[Scene], rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        """The loss of a batch of scenes, and the mean IoU of each kind of prompt."""
        embedding = self.embed(scenes)
        orders = [rng.permutation(len(scene.objects)).tolist() for scene in scenes]
        total, count, metrics, first = 0.0, 0, {}, 0
        for kind, number in PROMPTS.items():
            if kind == "group":
                chosen = [[draw_group(scene, rng) for _ in range(number)] for scene in scenes]
            else:
                chosen = [[(order[place % len(order)],) for place in range(first, first + number)] for order in orders]
                first += number
            prompted = draw_prompts(scenes, kind, chosen, rng)
            logits, quality = self.decode(embedding, kind, prompted)
            losses = mask_losses(logits, quality, prompted.targets)
            own = BCE_WEIGHT * losses.bce + DICE_WEIGHT * losses.dice + QUALITY_WEIGHT * losses.quality
            total, count = total + own.sum(), count + len(own)
            metrics[kind] = losses.iou.mean().item()
        return total / count, metrics

    @torch.no_grad()
    def watch(self, count: int) -> dict[str, float]:
        """Mean IoU at the size of held-out scenes, for each kind of prompt: all objects, or one group a scene."""
        rng = np.random.default_rng(SEED)
        found: dict[str, list[float]] = {kind: [] for kind in PROMPTS}
        for number in range(count):
            scene = make_scene(SEED, "test", number, IMAGE_SIZE)
            embedding = self.embed([scene])
            for kind in PROMPTS:
                everything = [(index,) for index in range(len(scene.objects))]
                chosen = [draw_group(scene, rng)] if kind == "group" else everything
                masks = torch.from_numpy(np.stack([describe(scene, group).mask for group in chosen]))
                prompted = draw_prompts([scene], kind, [chosen], rng)
                logits = self.decode(embedding, kind, prompted).logits
                large = nn.functional.interpolate(logits, size=masks.shape[-2:], mode="bilinear", align_corners=False)
                both, either = (large[:, 0] > 0) & masks, (large[:, 0] > 0) | masks
                found[kind] += (both.sum((1, 2)) / either.sum((1, 2))).tolist()
        return {kind: float(np.mean(values)) for kind, values in found.items()}


def _with_attention(config: SamVisionConfig) -> SamVisionConfig:
    config._attn_implementation = "sdpa"
    return config


def pretrain_grounding(output: str | Path, schedule: Schedule = SCHEDULE) -> None:
    """Train a grounding encoder with its mask decoder and write the weights, `grounding.safetensors`.

    Args:
        output (`str` or `Path`): output folder, with the checkpoint until the end.
        schedule (`Schedule`): learning rates.
    """
    output = Path(output)
    torch.manual_seed(SEED)
    learner = GroundingLearner()
    training = Pretraining(learner, "layers", schedule, output)

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        if step % WATCH_STEPS == 0:
            print(f"step {step}, {WATCHED} held-out scenes: {learner.watch(WATCHED)}", flush=True)
        rng = np.random.default_rng([SEED, step])
        first = step * BATCH_SIZE
        scenes = [make_scene(SEED, "train", first + number, IMAGE_SIZE) for number in range(BATCH_SIZE)]
        return learner.loss(scenes, rng)

    training.run(loss_of, "grounding encoder")
    save_file(learner.state_dict(), output / WEIGHTS)
    print(f"{LAST_WATCHED} held-out scenes: {learner.watch(LAST_WATCHED)}", flush=True)
    training.checkpoint.unlink(missing_ok=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", metavar="OUTPUT", type=Path, help="folder of the weights, and of the checkpoint")
    pretrain_grounding(parser.parse_args().output)
