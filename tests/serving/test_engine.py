"""The engine's answers: as from `generate`, the same in every batch, streamed or whole."""

import asyncio

import pytest

from transformers_groma.serving.engine import Engine, Sampling

from ..tiny_checkpoint import save_tiny_checkpoint
from .engines import ask, load, noise

SHORT = Sampling(max_new_tokens=6)


@pytest.fixture(scope="module")
def folder(golden_dir, tmp_path_factory):
    return save_tiny_checkpoint(tmp_path_factory.mktemp("tiny"), golden_dir)


@pytest.fixture(scope="module")
def parts(folder):
    return load(folder)


@pytest.fixture
def engine(parts):
    engine = Engine(*parts)
    yield engine
    engine.close(20)


def questions():
    """Questions of different lengths, about images of different sizes or none, with regions or without."""
    return [
        ask("What is there?", noise(0)),
        ask("What is in this image, and what is beside it? ", noise(1, (80, 50)), [5, 6, 30, 40]),
        ask("Is it here?"),
        ask("Compare ", noise(0), [1, 2, 20, 30], [10, 5, 40, 30]),
        ask("And?", noise(2)),
    ]


def from_generate(parts, messages, sampling):
    """The answer without an engine, from pixels."""
    model, processor = parts
    inputs = processor.apply_chat_template(
        messages, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
    )
    output = model.generate(
        **inputs, max_new_tokens=sampling.max_new_tokens, do_sample=False, return_dict_in_generate=True
    )
    images = [part["image"] for part in messages[0]["content"] if part["type"] == "image"]
    sizes = [(image.height, image.width) for image in images]
    return processor.post_process_grounded_generation(output, inputs, target_sizes=sizes or None)[0]


def test_answers_are_those_of_generate_one_by_one_and_in_one_batch(engine, parts):
    async def both():
        single = [await engine.answer(messages, SHORT) for messages in questions()]
        return single, await asyncio.gather(*[engine.answer(messages, SHORT) for messages in questions()])

    single, together = asyncio.run(both())
    assert engine.snapshot().batches < 2 * len(single)
    for messages, one, of_batch in zip(questions(), single, together, strict=True):
        expected = from_generate(parts, messages, SHORT)
        for answer in (one, of_batch):
            assert answer.grounded.markup == expected.markup
            assert answer.grounded.text == expected.text
            assert answer.grounded.regions.ids == expected.regions.ids
            assert answer.grounded.user_region_ids == expected.user_region_ids
            boxes = answer.grounded.regions.xyxy
            assert (boxes - expected.regions.xyxy).abs().max() < 0.01 if len(boxes) else True
