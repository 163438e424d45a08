"""Adapts groma-tiny's vision encoder, and a projector, to a language model that sees nothing but image tokens.

    python -m scripts.glamm_tiny.pretrain_vision OUTPUT

Groma's language model reads regions; GLaMM's reads patches. Each projected patch learns to say, linearly, the
attributes of the object that covers it, where that object's box is, and its place in a description of the image, which
names the largest objects from left to right. CLIP knew what images show before GLaMM, too.

An interrupted run resumes from its last checkpoint.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from scripts.groma_tiny.card import MODEL as GROMA_TINY
from scripts.groma_tiny.pretrain_vision_encoder import patch_targets
from scripts.groma_tiny.pretraining import Pretraining, Schedule
from transformers_groma import GromaForConditionalGeneration
from transformers_groma.models.modeling_positions import IGNORED_LABEL
from transformers_groma.shapes.questions import MAX_CAPTION_PHRASES
from transformers_groma.shapes.scenes import ATTRIBUTE_WORDS, Scene, make_scene
from transformers_groma.shapes.world import world_of

SEED = 3
IMAGE_SIZE, TEXT_WIDTH = 224, 128
WEIGHTS = "vision.safetensors"
SCHEDULE = Schedule(learning_rate=1e-3, steps=1400, warmup_steps=50, decay_steps=900)
BATCH_SIZE = 12
BOX_WEIGHT, PLACE_WEIGHT = 5.0, 1.0
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
    patch = scene.image_size // grid
    masks = np.stack([item.mask for item in scene.objects]).reshape(-1, grid, patch, grid, patch)
    shares = masks.mean(axis=(2, 4)).reshape(len(scene.objects), -1)
    places = np.full(len(scene.objects), LEFT_OUT)
    for place, index in enumerate(described_objects(scene), 1):
        places[index] = place
    return torch.from_numpy(places[shares.argmax(axis=0)])


class Projector(nn.Module):
    """Maps patches to the width of the language model, as GLaMM's projector does."""

    def __init__(self, width: int, text_width: int):
        super().__init__()
        self.linear_1 = nn.Linear(width, text_width)
        self.linear_2 = nn.Linear(text_width, text_width)

    def forward(self, patches: Tensor) -> Tensor:
        return self.linear_2(nn.functional.gelu(self.linear_1(patches)))


class PatchSpeaker(nn.Module):
    """A vision encoder and a projector, with linear heads on what the projector makes; the heads are not kept.

    Args:
        encoder (`nn.Module`): the vision encoder.
        text_width (`int`): width of the language model.
    """

    def __init__(self, encoder: nn.Module, text_width: int):
        super().__init__()
        self.vision_tower = encoder
        width = encoder.config.hidden_size
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

    def loss(self, tokens: Tensor, scenes: list[Scene]) -> tuple[Tensor, dict[str, float]]:
        """How well projected patches say what they show.

        Args:
            tokens (`Tensor` of shape `(B, patches, text_width)`): projected patches of scenes.
            scenes (`list[Scene]`): the scenes.

        Returns:
            The loss, and metrics: the shares of objects' patches that are right, and the error of boxes.
        """
        grid = IMAGE_SIZE // self.vision_tower.config.patch_size
        targets = [patch_targets(scene, grid) for scene in scenes]
        labels = torch.stack([target.labels for target in targets])
        boxes = torch.stack([target.boxes for target in targets])
        is_own = labels[..., 0] > 0
        places = torch.stack([place_targets(scene, grid) for scene in scenes])
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
    speaker = PatchSpeaker(groma.model.vision_tower, TEXT_WIDTH).train()
    training = Pretraining(speaker, "encoder.layer", schedule, output)

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        first = step * BATCH_SIZE
        scenes = [make_scene(SEED, "train", first + number, IMAGE_SIZE) for number in range(BATCH_SIZE)]
        return speaker.loss(speaker.multi_modal_projector(speaker(scenes)[-1]), scenes)

    training.run(loss_of, "vision encoder")
    save_file(speaker.state_dict(), output / WEIGHTS)
    training.checkpoint.unlink(missing_ok=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", metavar="OUTPUT", type=Path, help="folder of the weights, and of the checkpoint")
    pretrain_vision(parser.parse_args().output)
