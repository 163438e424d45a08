"""Streaming in batches: each step's ids, an end before its time, unfinished characters."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from tests.tiny import tiny_inputs, tiny_model
from transformers_groma.models.groma.tokenization_groma import load_legacy_tokenizer
from transformers_groma.streaming import StepStreamer, StopWhen, next_read, partial_text, readable_ids


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def inputs(model):
    return tiny_inputs(model.config, batch_size=3)


def test_the_streamer_sees_what_generate_returns(model, inputs):
    steps = []
    ids = model.generate(**inputs, max_new_tokens=5, min_new_tokens=5, streamer=StepStreamer(steps.append))
    assert torch.equal(torch.stack(steps, dim=1), ids[:, inputs["input_ids"].shape[1] :])
    assert steps[0].shape == (3,)


def test_all_rows_end_at_the_step_after_the_condition(model, inputs):
    length = inputs["input_ids"].shape[1]
    free = model.generate(**inputs, max_new_tokens=6, min_new_tokens=6)[:, length:]
    seen = []
    stopping = StopWhen(lambda: len(seen) >= 2)
    ids = model.generate(
        **inputs,
        max_new_tokens=50,
        min_new_tokens=50,
        stopping_criteria=[stopping],
        streamer=StepStreamer(seen.append),
    )[:, length:]
    assert 2 <= ids.shape[1] <= 3
    assert torch.equal(ids, free[:, : ids.shape[1]])


def test_half_a_character_waits():
    tokenizer = AutoTokenizer.from_pretrained("hub_configs/groma-tiny")
    ids = tokenizer("🦊", add_special_tokens=False)["input_ids"]
    texts = [partial_text(tokenizer, ids[:count]) for count in range(len(ids) + 1)]
    assert all("\ufffd" not in text for text in texts)
    assert texts[-1].strip() == "🦊"
    assert partial_text(tokenizer, torch.tensor(ids)) == texts[-1]


def test_text_of_bytes_only_grows(golden_dir):
    """Llama's tokenizer has a token for each byte, and one that fits nowhere makes all those beside it unreadable."""
    tokenizer = load_legacy_tokenizer(golden_dir / "legacy_checkpoint")
    line_break, first_byte = tokenizer.convert_tokens_to_ids(["<0x0A>", "<0xF0>"])
    word = tokenizer.convert_tokens_to_ids("?")
    assert partial_text(tokenizer, [word, line_break]) == "?"  # held back: look at the end of the same answer
    assert tokenizer.decode([word, line_break, first_byte]) == "?\ufffd\ufffd"
    assert partial_text(tokenizer, [word, line_break, word]) == "?\n?"

    random = np.random.default_rng(0)
    for _ in range(300):
        ids = random.integers(3, 270, random.integers(2, 12)).tolist()
        texts = [partial_text(tokenizer, ids[:count]) for count in range(len(ids) + 1)]
        kept = [readable_ids(tokenizer, ids[:count]) for count in range(len(ids) + 1)]
        assert [tokenizer.decode(part, skip_special_tokens=True).rstrip("\ufffd") for part in kept] == texts
        texts.append(tokenizer.decode(ids, skip_special_tokens=True))
        assert all(later.startswith(text) for text, later in pairwise(texts)), ids


def test_bytes_in_a_row_are_held_back_at_once(golden_dir, monkeypatch):
    tokenizer = load_legacy_tokenizer(golden_dir / "legacy_checkpoint")
    word, byte = tokenizer.convert_tokens_to_ids(["?", "<0xF0>"])
    calls = []
    decode = tokenizer.decode
    monkeypatch.setattr(tokenizer, "decode", lambda ids, **options: calls.append(len(ids)) or decode(ids, **options))
    assert readable_ids(tokenizer, [word] + [byte] * 500) == [word]
    assert len(calls) < 6


def test_reading_all_steps_of_a_long_answer_takes_time_in_proportion_to_its_length():
    def read_in_all(length: int) -> int:
        total = due = 0
        for number in range(1, length + 1):
            if number >= due:
                total, due = total + number, next_read(number)
        return total

    assert [next_read(number) for number in (1, 511, 1023, 1024)] == [2, 512, 1024, 1026]
    assert read_in_all(40_000) < 4.5 * read_in_all(10_000)
