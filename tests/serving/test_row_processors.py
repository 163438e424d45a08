"""Generation settings of a model hold for each row as if it were alone, however often its batch pauses."""

import asyncio
import copy
import logging

import pytest
from transformers import GenerationConfig

from transformers_groma.serving.engine import Engine, Sampling

from .engines import ask, load, noise, run, tokens, until_waiting

# Lengths that end at different steps, so that the batch pauses, and prompts of different lengths.
QUESTIONS = [
    (ask("What is there?", noise(0)), 9),
    (ask("Is it here, or is it there, or somewhere else?"), 2),
    (ask("What? ", noise(1), [5, 6, 30, 35]), 14),
    (ask("And?"), 5),
    (ask("Then what is beside it?", noise(0)), 3),
]


@pytest.fixture
def parts(tiny_folder):
    """A model and its processor for one test, which may change them."""
    return load(tiny_folder)


def ids_alone(parts, messages, length):
    """The ids that `generate` writes without an engine."""
    model, processor = parts
    inputs = processor.apply_chat_template(
        messages, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
    )
    output = model.generate(**inputs, max_new_tokens=length, return_dict_in_generate=True)
    return output.sequences[0, inputs["input_ids"].shape[1] :].tolist()


def answers_together(parts, make_gate):
    """Answers of an engine that has all questions in a few batches, which rows leave and join."""

    async def ask_all():
        async with Engine(*parts, max_batch_size=3) as engine:
            gate = make_gate(engine)
            first = asyncio.create_task(engine.answer(ask("Wait"), tokens(1)))
            await gate.is_reached()
            tasks = [asyncio.create_task(engine.answer(messages, tokens(length))) for messages, length in QUESTIONS]
            await until_waiting(engine, len(tasks))
            gate.open()
            await first
            return await asyncio.gather(*tasks)

    return run(ask_all())


END, OTHER = 2, 11


@pytest.mark.filterwarnings("ignore:Unfeasible length")
@pytest.mark.parametrize(
    "settings",
    [
        {"repetition_penalty": 1.5},
        {"no_repeat_ngram_size": 1},
        {"encoder_repetition_penalty": 1.5},
        {"encoder_no_repeat_ngram_size": 1},
        {"forced_eos_token_id": END},
        {"min_new_tokens": 4, "sequence_bias": [[[END], 100.0]]},
        {"min_length": 60, "sequence_bias": [[[END], 100.0]]},
        {"exponential_decay_length_penalty": (3, 1000.0)},
        {"begin_suppress_tokens": [OTHER], "sequence_bias": [[[OTHER], 100.0]]},
        {"suppress_tokens": [40, 191]},
        {"guidance_scale": 3.0},
        {"cache_implementation": "static"},
    ],
    ids=lambda settings: "-".join(settings),
)
def test_settings_of_the_model_hold_row_by_row(parts, make_gate, settings):
    model, processor = parts
    plain = [ids_alone(parts, messages, length) for messages, length in QUESTIONS]
    model.generation_config.update(eos_token_id=END, **settings)
    expected = [ids_alone(parts, messages, length) for messages, length in QUESTIONS]
    assert settings.keys() == {"cache_implementation"} or expected != plain  # the settings do something
    before = copy.deepcopy(model.generation_config)

    answers = answers_together(parts, make_gate)
    assert [answer.completion_tokens for answer in answers] == [len(ids) for ids in expected]
    texts = [processor.tokenizer.decode(ids, skip_special_tokens=True) for ids in expected]
    assert [answer.grounded.markup for answer in answers] == texts
    assert [answer.finish_reason for answer in answers] == ["stop" if ids[-1] == END else "length" for ids in expected]
    assert model.generation_config == before  # as its owner left it


def test_sampled_answers_obey_the_settings_and_their_seeds(parts, make_gate):
    parts[0].generation_config.update(suppress_tokens=list(range(3, 60)), repetition_penalty=1.2)
    sampling = Sampling(max_new_tokens=8, temperature=2.0, seed=4)

    async def ask_all():
        async with Engine(*parts) as engine:
            alone = await engine.answer(ask("What?", noise()), sampling)
            others = [engine.answer(ask("And?"), tokens(number)) for number in (1, 3, 6)]
            return alone, (await asyncio.gather(engine.answer(ask("What?", noise()), sampling), *others))[0]

    alone, together = run(ask_all())
    assert alone.grounded.markup == together.grounded.markup != ""


def test_settings_that_no_batch_can_obey_are_named(parts, caplog):
    parts[0].generation_config = GenerationConfig(eos_token_id=END, num_beams=4, repetition_penalty=1.2)
    with caplog.at_level(logging.WARNING, "transformers_groma"):
        Engine(*parts).close()
    assert [record.getMessage() for record in caplog.records] == [
        "The model's generation_config has num_beams=4, which the engine does not obey: each answer is one row, ended "
        "by an end token or its `max_new_tokens`."
    ]
