"""Pretrains groma-tiny's vision encoder on patch contents, before it finds boxes.

    python -m scripts.groma_tiny.pretrain_vision_encoder BASE OUTPUT

Groma's DINOv2 knew images before, too. Each patch learns the attributes of the object that covers it, and where the
object's box is. Boxes alone teach less: an encoder that learns from them only, in stage 1, barely distinguishes dots
from stripes.

An interrupted run resumes from its last checkpoint.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from transformers import BaseImageProcessor, PreTrainedModel

from transformers_groma import GromaForConditionalGeneration, GromaProcessor
from transformers_groma.models.modeling_positions import IGNORED_LABEL
from transformers_groma.shapes.scenes import ATTRIBUTE_WORDS, Scene, make_scene

from .pretraining import Pretraining, Schedule, base_and_output

# Other scenes than those of the stages, which have seed 0.
SEED = 1
SCHEDULE = Schedule(learning_rate=2e-3, steps=2000, warmup_steps=100, decay_steps=900)
BATCH_SIZE = 24
# A patch belongs to an object that covers at least the first share of it, and to the background if all objects
# together cover at most the second. Patches in between are not learned.
OWN_SHARE, BACKGROUND_SHARE = 0.5, 0.1
BOX_WEIGHT = 5.0


class PatchTargets(NamedTuple):
    """What the patches of an image show.

    Attributes:
        labels (`Tensor` of shape `(grid * grid, 4)`): indices of size, texture, color and shape, counted from 1; 0 for
            the background, -100 where nothing is learned.
        boxes (`Tensor` of shape `(grid * grid, 4)`): box of the object, `xyxy` in 0..1; zeros where there is none.
    """

    labels: Tensor
    boxes: Tensor


def patch_targets(scene: Scene, grid: int) -> PatchTargets:
    """Read off a scene what its patches show.

    Args:
        scene (`Scene`): the scene.
        grid (`int`): patches in a row.

    Returns:
        `PatchTargets`: patches in the order of the vision encoder.
    """
    patch = scene.image_size // grid
    # Cut every mask into patches, (objects, grid, patch, grid, patch); the mean over a patch is the share it covers.
    masks = np.stack([item.mask for item in scene.objects]).reshape(-1, grid, patch, grid, patch)
    shares = masks.mean(axis=(2, 4)).reshape(len(scene.objects), -1)
    owner = shares.argmax(axis=0)
    shown = [
        [words.index(getattr(item.attributes, name)) + 1 for name, words in ATTRIBUTE_WORDS.items()]
        for item in scene.objects
    ]
    labels = np.array(shown)[owner]
    boxes = np.array(scene.boxes_xyxy, dtype=np.float32)[owner] / scene.image_size
    is_own = shares.max(axis=0) >= OWN_SHARE
    labels[~is_own] = np.where(shares.sum(axis=0) <= BACKGROUND_SHARE, 0, IGNORED_LABEL)[~is_own, None]
    boxes[~is_own] = 0.0
    return PatchTargets(torch.from_numpy(labels), torch.from_numpy(boxes))


class PatchScenes(Dataset):
    """Scenes as pixels and targets.

    Args:
        image_processor (`BaseImageProcessor`): the model's.
        image_size (`int`): side of an image in pixels.
        grid (`int`): patches in a row.
        count (`int`): number of scenes.
    """

    def __init__(self, image_processor: BaseImageProcessor, image_size: int, grid: int, count: int):
        self.image_processor = image_processor
        self.image_size = image_size
        self.grid = grid
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        scene = make_scene(SEED, "train", index, self.image_size)
        pixel_values = self.image_processor(scene.draw(), return_tensors="pt")["pixel_values"][0]
        return pixel_values, *patch_targets(scene, self.grid)


class PatchReader(nn.Module):
    """A vision encoder with a linear head for each attribute and one for boxes; only the encoder is kept.

    Args:
        encoder (`PreTrainedModel`): the vision encoder.
    """

    def __init__(self, encoder: PreTrainedModel):
        super().__init__()
        self.encoder = encoder
        width = encoder.config.hidden_size
        self.heads = nn.ModuleDict({name: nn.Linear(width, len(words) + 1) for name, words in ATTRIBUTE_WORDS.items()})
        self.box = nn.Linear(width, 4)

    def loss(self, pixel_values: Tensor, labels: Tensor, boxes: Tensor) -> tuple[Tensor, dict[str, float]]:
        """The loss of a batch and, for each attribute, the share of objects' patches that get it right."""
        patches = self.encoder(pixel_values).last_hidden_state[:, -labels.shape[1] :]
        metrics, losses = {}, []
        for index, (name, head) in enumerate(self.heads.items()):
            logits, wanted = head(patches), labels[..., index]
            losses.append(
                nn.functional.cross_entropy(logits.flatten(0, 1), wanted.flatten(), ignore_index=IGNORED_LABEL)
            )
            metrics[name] = (logits.argmax(dim=-1) == wanted)[wanted > 0].float().mean().item()
        is_own = labels[..., 0] > 0
        losses.append(BOX_WEIGHT * nn.functional.l1_loss(self.box(patches)[is_own], boxes[is_own]))
        return torch.stack(losses).sum(), metrics


def batches(dataset: PatchScenes, first_step: int) -> Iterator[list[Tensor]]:
    """Yield the batches from a step on. A worker draws scenes while the model learns."""
    order = range(first_step * BATCH_SIZE, len(dataset))
    return iter(DataLoader(dataset, batch_size=BATCH_SIZE, sampler=order, num_workers=1, prefetch_factor=4))


def pretrain_vision_encoder(base: str | Path, output: str | Path) -> None:
    """Train the vision encoder of a groma-tiny and write the whole model.

    Args:
        base (`str` or `Path`): the untrained model.
        output (`str` or `Path`): output folder, with the checkpoint until the end.
    """
    output = Path(output)
    model = GromaForConditionalGeneration.from_pretrained(base, dtype=torch.float32).train()
    processor = GromaProcessor.from_pretrained(base)
    config = model.config.vision_config
    grid = config.image_size // config.patch_size
    torch.manual_seed(SEED)
    reader = PatchReader(model.model.vision_tower)
    training = Pretraining(reader, "encoder.layer", SCHEDULE, output)
    scenes = PatchScenes(processor.image_processor, config.image_size, grid, SCHEDULE.steps * BATCH_SIZE)
    source = batches(scenes, training.first_step)
    training.run(lambda step: reader.loss(*next(source)), "vision encoder")
    training.finish(model, processor)


if __name__ == "__main__":
    pretrain_vision_encoder(*base_and_output(__doc__))
