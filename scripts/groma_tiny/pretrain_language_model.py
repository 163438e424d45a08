"""Teaches groma-tiny's language model to point before it sees images, as Vicuna knew English before Groma.

    python -m scripts.groma_tiny.pretrain_language_model BASE OUTPUT

Its prompts are those of Groma without an image, and a region token is the sum of the embeddings of the words that are
true of the region: "small", "red", "circle". The model has to learn a look-back: from words to the region token that
they fit, and from there to the proxy token before it. Three things help a small model to learn it: few regions at
first and more later, initial weights that are large enough for its width (`build.py`), and Muon, which takes rare
directions of a matrix as seriously as common ones.

An interrupted run resumes from its last checkpoint.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from transformers_groma import GromaForConditionalGeneration, GromaProcessor
from transformers_groma.grounding import render_grounded_phrase
from transformers_groma.markup import proxy_token
from transformers_groma.models.modeling_positions import IGNORED_LABEL
from transformers_groma.shapes.questions import converse
from transformers_groma.shapes.scenes import ATTRIBUTE_WORDS, Attributes
from transformers_groma.shapes.wording import subsets, words
from transformers_groma.shapes.world import Content, Phrase, Region, World

from .pretraining import Pretraining, Schedule, base_and_output

SEED = 0
SCHEDULE = Schedule(learning_rate=2e-3, steps=1900, warmup_steps=100, decay_steps=500)
BATCH_SIZE = 16
# At first nothing but look-backs, easy ones before hard ones: conversations have too few for a model to learn them.
FIRST_STEPS, STEPS_PER_PROXY, SINGLE_STEPS, DRILL_STEPS, DRILL_BATCH_SIZE = 260, 12, 600, 1250, 48
# Then one more region every few steps and, later, regions without an object.
GROW_FROM_STEP, STEPS_PER_OBJECT, MIN_OBJECTS, MAX_OBJECTS = 800, 30, 2, 12
BACKGROUND_FROM_STEP = 1100
# Shares of later drills without markup, and about regions of which only one word is known.
BARE_SHARE, SINGLE_SHARE = 0.3, 0.3
QUESTIONS = 10
# What is known about the objects of a row, and how often.
KNOWN = {
    ("size", "texture", "color", "shape"): 0.6,
    ("size", "color", "shape"): 0.1,
    ("color", "shape"): 0.15,
    ("shape",): 0.15,
}
MIXTURE = {
    "rec": 0.4,
    "grounding": 0.2,
    "region-caption": 0.15,
    "grounded-caption": 0.1,
    "count": 0.05,
    "exists": 0.05,
    "color": 0.025,
    "shape": 0.025,
}
GREETING = "Thank you for the image! How can I assist you with it?"


@dataclass(frozen=True)
class Row:
    """A conversation as token ids.

    Args:
        input_ids (`list[int]`): placeholders stand for region tokens.
        labels (`list[int]`): as many; -100 outside answers.
        bags (`list[list[int]]`): for each placeholder, in order, the words of its region as token ids.
    """

    input_ids: list[int]
    labels: list[int]
    bags: list[list[int]]


def invent_world(rng: np.random.Generator, step: int, max_regions: int) -> World:
    """Invent some objects and, from some step on, regions without an object among them."""
    known = list(KNOWN)[rng.choice(len(KNOWN), p=list(KNOWN.values()))]
    if step < SINGLE_STEPS or (step < DRILL_STEPS and rng.random() < SINGLE_SHARE):
        known = (("shape",), ("color",))[rng.integers(2)]
    most = min(MAX_OBJECTS, MIN_OBJECTS + 1 + max(0, step - GROW_FROM_STEP) // STEPS_PER_OBJECT)
    regions: list[Attributes | None] = []
    for _ in range(int(rng.integers(MIN_OBJECTS, most + 1))):
        said = {name: values[rng.integers(len(values))] for name, values in ATTRIBUTE_WORDS.items()}
        regions.append(Attributes(**{name: said[name] for name in known}))
    if step >= BACKGROUND_FROM_STEP and rng.random() < 0.5:
        regions += [None] * int(rng.integers(max_regions - len(regions) + 1))
    return World([regions[index] for index in rng.permutation(len(regions))])


class RowMaker:
    """Makes conversations about invented worlds.

    Args:
        processor (`GromaProcessor`): the model's.
    """

    def __init__(self, processor: GromaProcessor):
        self.tokenizer: PreTrainedTokenizerBase = processor.tokenizer
        self.max_regions: int = processor.max_regions
        self.placeholder = "<image>"
        self.placeholder_id: int = self.tokenizer.convert_tokens_to_ids(self.placeholder)

    def drill(self, rng: np.random.Generator, step: int) -> Row:
        """Regions, then phrases that each fit one of them, with its proxy token: many look-backs in few tokens."""
        world = invent_world(rng, step, self.max_regions)
        # Numbering starts anywhere, so that all proxy tokens occur, one by one, while there are few regions.
        last_first = min(max(0, step - FIRST_STEPS) // STEPS_PER_PROXY, self.max_regions - len(world.attributes))
        first = int(rng.integers(last_first + 1))
        row = self._introduce(world, first)
        bare = step < SINGLE_STEPS or rng.random() < BARE_SHARE
        for index in rng.permutation(world.objects).tolist():
            fitting = [
                said for said in subsets(world.attributes[index], with_shape=False) if len(world.matches(said)) == 1
            ]
            if fitting:
                text = words(fitting[rng.integers(len(fitting))])
                self._add(row, f" {text}" if bare else f" <p>{text}</p> <roi>")
                self._add(row, proxy_token(first + index), learn=True)
                self._add(row, "" if bare else "</roi>")
        return row

    def conversation(self, rng: np.random.Generator, step: int) -> Row:
        """Questions and answers as they will later be about images."""
        exchanges = []
        while not exchanges:
            world = invent_world(rng, step, self.max_regions)
            exchanges = converse(MIXTURE, world, rng, QUESTIONS)
        row = self._introduce(world)
        self._add(row, ". ASSISTANT:")
        self._add(row, f" {GREETING}</s>", learn=True)
        for exchange in exchanges:
            row.bags.extend(self._bag(world, part.index) for part in exchange.question if isinstance(part, Region))
            self._add(row, f"USER: {self._render(exchange.question)} ASSISTANT:")
            self._add(row, f" {self._render(exchange.answer)}</s>", learn=True)
        return row

    def _introduce(self, world: World, first: int = 0) -> Row:
        order = range(len(world.attributes))
        regions = "".join(f"{proxy_token(first + index)}{self.placeholder}" for index in order)
        row = Row([self.tokenizer.bos_token_id], [IGNORED_LABEL], [self._bag(world, index) for index in order])
        self._add(row, f"USER: Here is an image with region crops from it. Image: . Regions: {regions}")
        return row

    def _add(self, row: Row, text: str, learn: bool = False) -> None:
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        row.input_ids.extend(ids)
        row.labels.extend(ids if learn else [IGNORED_LABEL] * len(ids))

    def _render(self, content: Content) -> str:
        """Render parts as text with Groma's markup, as the chat template does."""
        pieces = []
        for part in content:
            match part:
                case Region(index):
                    pieces.append(f"<roi>{proxy_token(index)}{self.placeholder}</roi>")
                case Phrase(text, indices):
                    pieces.append(render_grounded_phrase(text, indices))
                case _:
                    pieces.append(part)
        return "".join(pieces)

    def _bag(self, world: World, index: int) -> list[int]:
        attributes = world.attributes[index]
        text = "background" if attributes is None else words(attributes)
        return self.tokenizer(f" {text}", add_special_tokens=False)["input_ids"]


def prompt_embeddings(
    table: torch.nn.Embedding, rows: list[Row], placeholder_id: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Embed rows: embeddings `(B, L, D)` with region tokens, attention mask and labels `(B, L)`, right-padded."""
    length = max(len(row.input_ids) for row in rows)
    input_ids = torch.tensor([row.input_ids + [0] * (length - len(row.input_ids)) for row in rows])
    labels = torch.tensor([row.labels + [IGNORED_LABEL] * (length - len(row.labels)) for row in rows])
    mask = torch.tensor([[1] * len(row.input_ids) + [0] * (length - len(row.input_ids)) for row in rows])
    # `embedding_bag` sums runs of one flat list of tokens; each region's run starts at its offset.
    bags = [bag for row in rows for bag in row.bags]
    offsets = torch.tensor([0, *(len(bag) for bag in bags[:-1])]).cumsum(0)
    tokens = torch.tensor([token for bag in bags for token in bag])
    features = torch.nn.functional.embedding_bag(tokens, table.weight, offsets, mode="sum")
    is_region = (input_ids == placeholder_id) & mask.bool()
    embeddings = table(input_ids).masked_scatter(is_region[..., None], features)
    return embeddings, mask, labels


def pretrain_language_model(base: str | Path, output: str | Path) -> None:
    """Train the language model of a groma-tiny and write the whole model.

    Args:
        base (`str` or `Path`): the untrained model.
        output (`str` or `Path`): output folder, with the checkpoint until the end.
    """
    output = Path(output)
    model = GromaForConditionalGeneration.from_pretrained(base, dtype=torch.float32)
    processor = GromaProcessor.from_pretrained(base)
    language_model, table, head = model.model.language_model, model.get_input_embeddings(), model.lm_head
    make_row = RowMaker(processor)
    proxies = set(range(model.config.first_proxy_token_id, model.config.first_proxy_token_id + processor.max_regions))
    is_proxy = torch.tensor([token in proxies for token in range(table.num_embeddings)])

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        rng = np.random.default_rng([SEED, step])
        make, count = (make_row.drill, DRILL_BATCH_SIZE) if step < DRILL_STEPS else (make_row.conversation, BATCH_SIZE)
        rows = [make(rng, step) for _ in range(count)]
        embeddings, mask, labels = prompt_embeddings(table, rows, make_row.placeholder_id)
        hidden = language_model(inputs_embeds=embeddings, attention_mask=mask).last_hidden_state[:, :-1]
        targets = labels[:, 1:]
        learned = targets != IGNORED_LABEL
        logits, targets = head(hidden[learned]), targets[learned]
        right = logits.argmax(dim=-1) == targets
        pointing = is_proxy[targets]
        metrics = {
            "proxies right": right[pointing].float().mean().item(),
            "other tokens": right[~pointing].float().sum().item() / max(1, int((~pointing).sum())),
        }
        return torch.nn.functional.cross_entropy(logits, targets), metrics

    training = Pretraining(language_model, "layers", SCHEDULE, output)
    training.run(loss_of, "language model")
    training.finish(model, processor)


if __name__ == "__main__":
    pretrain_language_model(*base_and_output(__doc__))
