"""Adapts groma-tiny's vision encoder, and a projector, to a language model that sees nothing but image tokens.

    python -m scripts.glamm_tiny.pretrain_vision OUTPUT

groma-tiny's language model reads regions; glamm-tiny's, which starts from it, reads patches. So each projected patch
learns to be the region token that groma-tiny makes of the object which covers it, and so does what the new region
encoder makes of that object's box. A projected patch also says, linearly, the object's attributes, where its box is,
and its place in a description of the image, which names the largest objects from left to right. CLIP and Vicuna knew
what images show and what words mean before GLaMM, too.

An interrupted run resumes from its last checkpoint.
"""

import argparse
import copy
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from scripts.groma_tiny.card import MODEL as GROMA_TINY
from scripts.groma_tiny.pretrain_vision_encoder import OWN_SHARE, patch_targets
from scripts.groma_tiny.pretraining import Pretraining, Schedule
from transformers_groma import GromaForConditionalGeneration, GromaRegionEncoderConfig
from transformers_groma.boxes import box_xyxy_to_cxcywh
from transformers_groma.models.modeling_positions import IGNORED_LABEL
from transformers_groma.models.modeling_region_encoder import GromaRegionEncoder
from transformers_groma.shapes.questions import MAX_CAPTION_PHRASES
from transformers_groma.shapes.scenes import ATTRIBUTE_WORDS, Scene, make_scene
from transformers_groma.shapes.world import world_of

SEED = 3
IMAGE_SIZE, TEXT_WIDTH = 224, 128
WEIGHTS = "vision.safetensors"
SCHEDULE = Schedule(learning_rate=1e-3, steps=1400, warmup_steps=50, decay_steps=900)
BATCH_SIZE = 12
BOX_WEIGHT, PLACE_WEIGHT, TOKEN_WEIGHT = 5.0, 3.0, 2.0
# ImageNet's colors, as groma-tiny's image processor has them.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Beside the places of a description: the background, and objects that it leaves out.
BACKGROUND, LEFT_OUT = 0, MAX_CAPTION_PHRASES + 1


def pixels_of(scene: Scene) -> Tensor:
    """The image of a scene `(3, S, S)`, as the vision encoder takes it."""
    pixels = torch.from_numpy(np.array(scene.draw(), dtype=np.float32)) / 255
    return ((pixels - torch.tensor(MEAN)) / torch.tensor(STD)).permute(2, 0, 1)


def described_objects(scene: Scene) -> tuple[int, ...]:
    """The objects that a description of the scene names, in its order: the largest ones, from left to right."""
    world = world_of(scene)
    largest = sorted(world.objects, key=lambda index: -world.areas[index])[:MAX_CAPTION_PHRASES]
    return world.in_order(largest)


def place_targets(scene: Scene, grid: int) -> Tensor:
    """For each patch `(grid * grid,)` the place in a description of the object that covers most of it."""
    places = np.full(len(scene.objects), LEFT_OUT)
    for place, index in enumerate(described_objects(scene), 1):
        places[index] = place
    return torch.from_numpy(places[_covered_shares(scene, grid).argmax(axis=0)])


def owner_targets(scene: Scene, grid: int) -> Tensor:
    """For each patch `(grid * grid,)` the object that covers at least half of it, or -1."""
    shares = _covered_shares(scene, grid)
    return torch.from_numpy(np.where(shares.max(axis=0) >= OWN_SHARE, shares.argmax(axis=0), -1))


def _covered_shares(scene: Scene, grid: int) -> np.ndarray:
    """How much of each patch each object covers, `(objects, grid * grid)`."""
    patch = scene.image_size // grid
    masks = np.stack([item.mask for item in scene.objects]).reshape(-1, grid, patch, grid, patch)
    return masks.mean(axis=(2, 4)).reshape(len(scene.objects), -1)


def boxes_of(scenes: list[Scene]) -> tuple[Tensor, Tensor]:
    """The boxes of all objects, `(B, K, 4)` normalized `cxcywh`, padded, and which rows are not padding `(B, K)`."""
    boxes = torch.zeros(len(scenes), max(len(scene.objects) for scene in scenes), 4)
    used = torch.zeros(boxes.shape[:2], dtype=torch.bool)
    for number, scene in enumerate(scenes):
        count = len(scene.objects)
        boxes[number, :count] = box_xyxy_to_cxcywh(torch.tensor(scene.boxes_xyxy) / scene.image_size)
        used[number, :count] = True
    return boxes, used


def region_encoder_config() -> GromaRegionEncoderConfig:
    """The region encoder's sizes: four maps, not fused, which would take most of the time of a training step."""
    return GromaRegionEncoderConfig(
        vision_feature_layers=[-4, -3, -2, -1],
        num_fuse_layers=0,
        group_norm_groups=8,
        roi_output_size=5,
        roi_strides=[1.75, 3.5, 7.0, 14.0],
        box_embedding_format="xyxy",
        position_hidden_size=64,
        region_hidden_size=96,
    )


class Projector(nn.Module):
    """Maps patches to the width of the language model, as GLaMM's projector does."""

    def __init__(self, width: int, text_width: int):
        super().__init__()
        self.linear_1 = nn.Linear(width, text_width)
        self.linear_2 = nn.Linear(text_width, text_width)

    def forward(self, patches: Tensor) -> Tensor:
        return self.linear_2(nn.functional.gelu(self.linear_1(patches)))


class PatchSpeaker(nn.Module):
    """groma-tiny's vision encoder with a projector and a region encoder, and linear heads on what the projector makes.

    The heads are not kept.

    Args:
        groma (`GromaForConditionalGeneration`): groma-tiny, which also says what region tokens should be.
        text_width (`int`): width of the language model.
    """

    def __init__(self, groma: GromaForConditionalGeneration, text_width: int):
        super().__init__()
        # Not a part of this module: it does not learn.
        self.__dict__["teacher"] = groma.model.eval().requires_grad_(False)
        self.vision_tower = copy.deepcopy(groma.model.vision_tower).requires_grad_(True).train()
        width = self.vision_tower.config.hidden_size
        self.grid = IMAGE_SIZE // self.vision_tower.config.patch_size
        self.region_encoder = GromaRegionEncoder(region_encoder_config(), width, text_width, IMAGE_SIZE)
        self.multi_modal_projector = Projector(width, text_width)
        self.heads = nn.ModuleDict(
            {name: nn.Linear(text_width, len(words) + 1) for name, words in ATTRIBUTE_WORDS.items()}
        )
        self.place = nn.Linear(text_width, LEFT_OUT + 1)
        self.box = nn.Linear(text_width, 4)

    def forward(self, scenes: list[Scene]) -> list[Tensor]:
        """Patches of scenes in all hidden states, `(B, patches, width)` each."""
        pixel_values = torch.stack([pixels_of(scene) for scene in scenes])
        return [state[:, 1:] for state in self.vision_tower(pixel_values, output_hidden_states=True).hidden_states]

    def encode_regions(self, hidden: list[Tensor], boxes: Tensor, used: Tensor) -> Tensor:
        """Region tokens `(B, K, text_width)` of boxes `(B, K, 4)`, normalized `cxcywh`; zeros where none is used."""
        layers = self.region_encoder.config.vision_feature_layers
        maps = [hidden[layer].transpose(1, 2).unflatten(2, (self.grid, self.grid)) for layer in layers]
        return self.region_encoder(maps, boxes, used)

    def token_loss(self, hidden: list[Tensor], scenes: list[Scene]) -> tuple[Tensor, dict[str, float]]:
        """How far projected patches and region tokens are from groma-tiny's region tokens.

        Args:
            hidden (`list[Tensor]`): patches of the scenes in all hidden states.
            scenes (`list[Scene]`): the scenes.

        Returns:
            The loss, and metrics: its two parts, as shares of the variance.
        """
        boxes, used = boxes_of(scenes)
        with torch.no_grad():
            states = self.teacher.encode_patches(torch.stack([pixels_of(scene) for scene in scenes])).hidden_states
            layers = self.teacher.config.region_encoder_config.vision_feature_layers
            wanted = self.teacher.region_encoder([self.teacher.feature_map(states[n]) for n in layers], boxes, used)
            scale = wanted[used].var(dim=0).mean()
            owners = torch.stack([owner_targets(scene, self.grid) for scene in scenes])
            is_own = owners >= 0
            of_patches = wanted.gather(1, owners.clamp(min=0)[..., None].expand(-1, -1, wanted.shape[-1]))
        patches = self.multi_modal_projector(hidden[-1])
        patch_error = (patches - of_patches)[is_own].square().mean() / scale
        region_error = (self.encode_regions(hidden, boxes, used) - wanted)[used].square().mean() / scale
        metrics = {"patch token": patch_error.item(), "region token": region_error.item()}
        return patch_error + region_error, metrics

    def loss(self, tokens: Tensor, scenes: list[Scene]) -> tuple[Tensor, dict[str, float]]:
        """How well projected patches say what they show.

        Args:
            tokens (`Tensor` of shape `(B, patches, text_width)`): projected patches of scenes.
            scenes (`list[Scene]`): the scenes.

        Returns:
            The loss, and metrics: the shares of objects' patches that are right, and the error of boxes.
        """
        targets = [patch_targets(scene, self.grid) for scene in scenes]
        labels = torch.stack([target.labels for target in targets])
        boxes = torch.stack([target.boxes for target in targets])
        is_own = labels[..., 0] > 0
        places = torch.stack([place_targets(scene, self.grid) for scene in scenes])
        places = torch.where(is_own, places, torch.where(labels[..., 0] == 0, BACKGROUND, IGNORED_LABEL))
        metrics, losses = {}, []
        for index, (name, head) in enumerate(self.heads.items()):
            logits = head(tokens)
            losses.append(_cross_entropy(logits, labels[..., index]))
            metrics[name] = _share_right(logits, labels[..., index])
        place_logits = self.place(tokens)
        losses.append(PLACE_WEIGHT * _cross_entropy(place_logits, places))
        metrics["place"] = _share_right(place_logits, places)
        box_error = nn.functional.l1_loss(self.box(tokens)[is_own], boxes[is_own])
        metrics["box"] = box_error.item()
        return torch.stack([*losses, BOX_WEIGHT * box_error]).sum(), metrics


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED_LABEL)


def _share_right(logits: Tensor, labels: Tensor) -> float:
    return (logits.argmax(dim=-1) == labels)[labels > 0].float().mean().item()


def pretrain_vision(output: str | Path, schedule: Schedule = SCHEDULE) -> None:
    """Train vision encoder and projector and write their weights, `vision.safetensors`.

    Args:
        output (`str` or `Path`): output folder, with the checkpoint until the end.
        schedule (`Schedule`): learning rates.
    """
    output = Path(output)
    groma = GromaForConditionalGeneration.from_pretrained(GROMA_TINY, dtype=torch.float32)
    torch.manual_seed(SEED)
    speaker = PatchSpeaker(groma, TEXT_WIDTH)
    training = Pretraining(speaker, "encoder.layer", schedule, output)

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        first = step * BATCH_SIZE
        scenes = [make_scene(SEED, "train", first + number, IMAGE_SIZE) for number in range(BATCH_SIZE)]
        hidden = speaker(scenes)
        loss, metrics = speaker.loss(speaker.multi_modal_projector(hidden[-1]), scenes)
        token_loss, of_tokens = speaker.token_loss(hidden, scenes)
        return loss + TOKEN_WEIGHT * token_loss, {**metrics, **of_tokens}

    training.run(loss_of, "vision encoder")
    save_file(speaker.state_dict(), output / WEIGHTS)
    training.checkpoint.unlink(missing_ok=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", metavar="OUTPUT", type=Path, help="folder of the weights, and of the checkpoint")
    pretrain_vision(parser.parse_args().output)
