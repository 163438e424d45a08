"""Teaches glamm-tiny's language model to look up in an image what words mean, before the masks are trained.

    python -m scripts.glamm_tiny.pretrain_language_model VISION GROUNDING OUTPUT

It starts from groma-tiny's language model, which knows the words for shapes. The state that predicts a `[SEG]` token
learns, through the prompt projection, the vector that describes its object to the mask decoder
(`scripts/glamm_tiny/pretrain_grounding.py`): where it is and how it looks. No mask is decoded, so a step is cheap.

An interrupted run resumes from its last checkpoint.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaModel, PreTrainedTokenizerBase

from scripts.groma_tiny.card import MODEL as GROMA_TINY
from scripts.groma_tiny.pretraining import Pretraining, Schedule
from transformers_groma import GromaForConditionalGeneration, GromaProcessor
from transformers_groma.boxes import box_cxcywh_to_xyxy, box_iou, box_xyxy_to_cxcywh
from transformers_groma.models.modeling_mask_decoder import MaskPrompts
from transformers_groma.models.modeling_positions import IGNORED_LABEL
from transformers_groma.shapes.scenes import Scene, make_scene
from transformers_groma.shapes.world import world_of

from .language_rows import Row, RowMaker
from .pretrain_grounding import WEIGHTS as GROUNDING_WEIGHTS
from .pretrain_grounding import GroundingLearner, describe
from .pretrain_vision import IMAGE_SIZE, PatchSpeaker, Projector
from .pretrain_vision import WEIGHTS as VISION_WEIGHTS
from .tokens import build_tokenizer

SEED = 4
WEIGHTS = "language.safetensors"
SCHEDULE = Schedule(learning_rate=1e-3, steps=7800, warmup_steps=50, decay_steps=6000)
BATCH_SIZE = 8
# The vision encoder has learned before.
VISION_SHARE = 0.4
# At first nothing but look-ups; then rows of each kind, those of a step alike.
DRILL_STEPS = 400
KINDS = {"drill": 0.2, "description": 0.55, "conversation": 0.25}
VECTOR_WEIGHT, BOX_WEIGHT, PATCH_WEIGHT = 1.0, 4.0, 0.4
WATCHED, WATCH_STEPS = 30, 150
# Tokens of GLaMM that start as one of Groma's. What predicts a `[SEG]` is often `</p>`; in Groma `<roi>` points.
ALIKE = {
    "</p>": "<roi>",
    "[SEG]": "<ground_box>",
    "<bbox>": "<refer_box>",
    "<im_start>": "<roi>",
    "<im_end>": "</roi>",
}


def text_config(tokenizer: PreTrainedTokenizerBase, groma_config: LlamaConfig) -> LlamaConfig:
    """The language model's sizes: groma-tiny's, with another vocabulary."""
    settings = groma_config.to_dict()
    settings.update(
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaConfig(**settings)


def language_model_from_groma(tokenizer: PreTrainedTokenizerBase) -> LlamaModel:
    """groma-tiny's language model with the vocabulary of glamm-tiny; words keep their vectors."""
    groma = GromaForConditionalGeneration.from_pretrained(GROMA_TINY, dtype=torch.float32)
    old = GromaProcessor.from_pretrained(GROMA_TINY).tokenizer.get_vocab()
    model = LlamaModel(text_config(tokenizer, groma.config.text_config))
    weights = groma.model.language_model.state_dict()
    table = weights.pop("embed_tokens.weight")
    # A piece that is new starts as the mean of all.
    new = table.mean(dim=0).repeat(len(tokenizer), 1) + 0.02 * torch.randn(len(tokenizer), table.shape[1])
    for token, index in tokenizer.get_vocab().items():
        if (known := old.get(ALIKE.get(token, token))) is not None:
            new[index] = table[known]
    model.load_state_dict({**weights, "embed_tokens.weight": new})
    return model


class LanguageLearner(nn.Module):
    """Vision encoder, region encoder and language model with their projections, which learn together.

    Args:
        vision (`Path`), grounding (`Path`): folders of the weights of the steps before.
    """

    def __init__(self, vision: Path, grounding: Path):
        super().__init__()
        self.tokenizer = build_tokenizer()
        groma = GromaForConditionalGeneration.from_pretrained(GROMA_TINY, dtype=torch.float32)
        text_width = groma.config.text_config.hidden_size
        speaker = PatchSpeaker(groma, text_width)
        speaker.load_state_dict(load_file(vision / VISION_WEIGHTS))
        judge = GroundingLearner()
        judge.load_state_dict(load_file(grounding / GROUNDING_WEIGHTS))
        # Not a part of this module: it does not learn.
        self.__dict__["judge"] = judge.eval().requires_grad_(False)
        self.speaker = speaker
        self.language_model = language_model_from_groma(self.tokenizer)
        self.prompt_projection = PromptProjection(text_width, judge.mask_decoder.config.hidden_size)
        self.box_head = nn.Linear(text_width, 4)
        self.rows = RowMaker(self.tokenizer, speaker.grid**2)

    def states(self, scenes: list[Scene], rows: list[Row]) -> tuple[Tensor, Tensor, Tensor]:
        """States of the language model `(B, L, D)` after the final norm, labels `(B, L)`, and projected patches."""
        length = max(len(row.input_ids) for row in rows)
        input_ids = torch.tensor([row.input_ids + [0] * (length - len(row.input_ids)) for row in rows])
        labels = torch.tensor([row.labels + [IGNORED_LABEL] * (length - len(row.labels)) for row in rows])
        hidden = self.speaker(scenes)
        patches = self.speaker.multi_modal_projector(hidden[-1])
        embeddings = self.language_model.embed_tokens(input_ids)
        is_image, is_region = input_ids == self.rows.image_id, input_ids == self.rows.region_id
        embeddings = embeddings.masked_scatter(is_image[..., None], patches)
        if is_region.any():
            slots = max(len(row.regions) for row in rows)
            boxes, used = torch.zeros(len(rows), slots, 4), torch.zeros(len(rows), slots, dtype=torch.bool)
            for number, (scene, row) in enumerate(zip(scenes, rows, strict=True)):
                for slot, index in enumerate(row.regions):
                    boxes[number, slot] = _box(scene, index)
                    used[number, slot] = True
            regions = self.speaker.encode_regions(hidden, boxes, used)
            embeddings = embeddings.masked_scatter(is_region[..., None], regions[used])
        # Rows are padded on the right, so causal attention alone hides the padding.
        return self.language_model(inputs_embeds=embeddings).last_hidden_state, labels, patches

    def loss(self, scenes: list[Scene], rows: list[Row]) -> tuple[Tensor, dict[str, float]]:
        """The loss of a batch, and what it is made of."""
        states, labels, patches = self.states(scenes, rows)
        states_before, targets = states[:, :-1], labels[:, 1:]
        learned = targets != IGNORED_LABEL
        metrics = {"ce": 0.0, "right": 1.0, "vector": 0.0, "box": 0.0, "hit": 0.0}
        patch_loss, of_patches = self.speaker.loss(patches, scenes)
        metrics |= {"place": of_patches["place"], "patch box": of_patches["box"]}
        loss = PATCH_WEIGHT * patch_loss
        if learned.any():
            logits = states_before[learned] @ self.language_model.embed_tokens.weight.T
            cross_entropy = nn.functional.cross_entropy(logits, targets[learned])
            loss = loss + cross_entropy
            right = (logits.argmax(dim=-1) == targets[learned]).float().mean()
            metrics |= {"ce": cross_entropy.item(), "right": right.item()}
        places = [(number, place) for number, row in enumerate(rows) for place, _ in row.segments]
        meant = [(scene, objects) for scene, row in zip(scenes, rows, strict=True) for _, objects in row.segments]
        if meant:
            index = torch.tensor(places)
            segments = states[index[:, 0], index[:, 1]]
            boxes, vectors = self.described(meant)
            error = (self.prompt_projection(segments) - vectors).square().mean() / vectors.var(dim=0).mean()
            told = self.box_head(segments)
            box_error = nn.functional.l1_loss(told, boxes)
            loss = loss + VECTOR_WEIGHT * error + BOX_WEIGHT * box_error
            iou = box_iou(box_cxcywh_to_xyxy(told.detach()), box_cxcywh_to_xyxy(boxes)).diagonal()
            metrics |= {"vector": error.item(), "box": box_error.item(), "hit": (iou > 0.5).float().mean().item()}
        return loss, metrics

    @torch.no_grad()
    def described(self, groups: list[tuple[Scene, tuple[int, ...]]]) -> tuple[Tensor, Tensor]:
        """Boxes of objects or groups, normalized `cxcywh`, and vectors that describe them to the mask decoder."""
        told = [describe(scene, objects) for scene, objects in groups]
        boxes = torch.tensor(np.array([one.box for one in told]), dtype=torch.float32) / IMAGE_SIZE
        boxes = box_xyxy_to_cxcywh(boxes)
        return boxes, self.judge.descriptions(boxes, torch.tensor([one.attributes for one in told]))

    @torch.no_grad()
    def watch(self, count: int) -> dict[str, float]:
        """On held-out scenes: IoU of the masks that the decoder makes of the vectors, and words that are right."""
        self.eval()
        hits, total, words = [], {"both": 0.0, "either": 0.0}, []
        for number in range(count):
            rng = np.random.default_rng([SEED, number])
            scene = make_scene(SEED, "test", number, IMAGE_SIZE)
            embedding = self.judge.embed([scene])
            row = self.rows.conversation(world_of(scene), rng)
            states, labels, _ = self.states([scene], [row])
            learned = labels[0, 1:] != IGNORED_LABEL
            logits = states[0, :-1][learned] @ self.language_model.embed_tokens.weight.T
            words += (logits.argmax(dim=-1) == labels[0, 1:][learned]).tolist()
            if not row.segments:
                continue
            vectors = self.prompt_projection(states[0, [place for place, _ in row.segments]])
            prompts = MaskPrompts(torch.zeros(len(vectors), dtype=torch.long), vectors=vectors[:, None])
            logits = self.judge.mask_decoder(embedding, prompts).logits
            size = (IMAGE_SIZE, IMAGE_SIZE)
            said = nn.functional.interpolate(logits, size=size, mode="bilinear", align_corners=False)[:, 0] > 0
            true = torch.from_numpy(np.stack([describe(scene, objects).mask for _, objects in row.segments]))
            both, either = (said & true).sum((1, 2)).float(), (said | true).sum((1, 2)).float()
            hits += (both / either).tolist()
            total = {"both": total["both"] + both.sum().item(), "either": total["either"] + either.sum().item()}
        self.train()
        return {
            "giou": float(np.mean(hits)),
            "ciou": total["both"] / total["either"],
            "p@0.5": float(np.mean(np.array(hits) > 0.5)),
            "words": float(np.mean(words)),
        }


class PromptProjection(Projector):
    """GLaMM's L-P: maps a state of the language model to a prompt vector."""

    def __init__(self, text_width: int, prompt_width: int):
        super().__init__(text_width, text_width)
        self.linear_2 = nn.Linear(text_width, prompt_width)


def _box(scene: Scene, index: int) -> Tensor:
    """The box of an object, normalized `cxcywh`."""
    return box_xyxy_to_cxcywh(torch.tensor(scene.boxes_xyxy[index]) / scene.image_size)


def pretrain_language_model(vision: Path, grounding: Path, output: Path, schedule: Schedule = SCHEDULE) -> None:
    """Train the language model and write its weights with those of projectors and region encoder.

    Args:
        vision (`Path`), grounding (`Path`): folders of the weights of the steps before.
        output (`Path`): output folder, with the checkpoint until the end.
        schedule (`Schedule`): learning rates.
    """
    torch.manual_seed(SEED)
    learner = LanguageLearner(vision, grounding).train()
    training = Pretraining(learner, "layer", schedule, output, slower={"speaker.": VISION_SHARE})

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        if step % WATCH_STEPS == 0:
            print(f"step {step}, {WATCHED} held-out scenes: {learner.watch(WATCHED)}", flush=True)
        rng = np.random.default_rng([SEED, step])
        first = step * BATCH_SIZE
        scenes = [make_scene(SEED, "train", first + number, IMAGE_SIZE) for number in range(BATCH_SIZE)]
        kind = "drill" if step < DRILL_STEPS else rng.choice(list(KINDS), p=list(KINDS.values()))
        make = getattr(learner.rows, kind)
        return learner.loss(scenes, [make(world_of(scene), rng) for scene in scenes])

    training.run(loss_of, "language model")
    save_file({name: value.contiguous() for name, value in learner.state_dict().items()}, output / WEIGHTS)
    print(f"held-out scenes: {learner.watch(10 * WATCHED)}", flush=True)
    training.checkpoint.unlink(missing_ok=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("vision", "grounding", "output"):
        parser.add_argument(name, metavar=name.upper(), type=Path, help=f"folder of the weights: {name}")
    arguments = parser.parse_args()
    pretrain_language_model(arguments.vision, arguments.grounding, arguments.output)
