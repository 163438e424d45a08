"""Streamed answers: they grow, the last one is whole, and leaving the loop stops the model."""

import subprocess
import sys
import threading
import time
from itertools import pairwise

import pytest
import torch

from .samples import BOX


def streams() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "groma-stream"]


@pytest.fixture
def steps(monkeypatch):
    """Counts the steps of a pipeline's language model."""

    def count(pipe):
        seen, forward = [], pipe.model.model.language_model.forward

        def counted(*args, **kwargs):
            seen.append(1)
            return forward(*args, **kwargs)

        monkeypatch.setattr(pipe.model.model.language_model, "forward", counted)
        return seen

    return count


def test_partial_answers_grow_to_the_whole(groma, scenes):
    image = scenes[0].draw()
    partials = list(groma.caption(image, stream=True))
    whole = groma.caption(image)
    assert partials[-1].to_dict() == whole.to_dict() and partials[-1].markup == whole.markup
    assert len(partials) > 10
    for partial, later in pairwise(partials):
        assert later.text.startswith(partial.text)
        assert len(partial.phrases) <= len(later.phrases)
        # A phrase that was found stays, with its regions.
        for phrase, same in zip(partial.phrases, later.phrases):
            assert (phrase.text, phrase.span) == (same.text, same.span)
            assert set(phrase.region_ids) <= set(same.region_ids)
    for partial in partials:
        assert partial.regions.to_dict() == whole.regions.to_dict()
        assert partial.unknown_region_ids == ()
    shown = [(partial.text, [phrase.region_ids for phrase in partial.phrases]) for partial in partials[:-1]]
    assert all(first != second for first, second in pairwise(shown)), "each shows something new"


def test_every_verb_streams_what_it_answers(pipe, photos):
    for verb in (
        lambda **how: pipe.caption(photos[0], brief=True, **how),
        lambda **how: pipe.describe(photos[0], BOX, **how),
        lambda **how: pipe.ask(photos[0], "Is <region> here?", boxes=[BOX], grounded=True, **how),
    ):
        last = list(verb(stream=True))[-1]
        whole = verb()
        assert last.to_dict() == whole.to_dict() and last.user_region_ids == whole.user_region_ids


def test_leaving_the_loop_stops_the_model(groma, scenes, steps):
    seen = steps(groma)
    whole = len(groma.processor.tokenizer(groma.caption(scenes[0].draw()).markup)["input_ids"])
    assert len(seen) > 40 and whole > 40
    seen.clear()
    for _partial in groma.caption(scenes[0].draw(), stream=True):
        break
    assert not streams()
    stopped = len(seen)
    assert stopped < 8
    time.sleep(0.2)
    assert len(seen) == stopped


def test_a_slow_reader_does_not_let_the_model_run_ahead(groma, scenes, steps):
    seen = steps(groma)
    stream = groma.caption(scenes[0].draw(), stream=True)
    next(stream)
    time.sleep(0.3)
    assert len(seen) < 8
    rest = list(stream)
    assert rest[-1].to_dict() == groma.caption(scenes[0].draw()).to_dict()


def test_a_program_may_end_in_the_middle_of_a_stream():
    code = """
from PIL import Image
from transformers_groma import ImageGroundingPipeline
groma = ImageGroundingPipeline.from_pretrained("hub_configs/groma-tiny", device="cpu")
stream = groma.caption(Image.new("RGB", (64, 64)), stream=True, generate_kwargs={"min_new_tokens": 200})
next(stream)
print("seen", flush=True)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "seen\n"), done.stderr


def test_nothing_happens_before_the_loop(pipe, photos, never_asked):
    never_asked(pipe)
    pipe.caption(photos[0], stream=True)
    assert not streams()


def test_errors_of_the_model_reach_the_loop(pipe, photos, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(pipe.model.model.language_model, "forward", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        list(pipe.caption(photos[0], stream=True))
    assert not streams()


def test_errors_of_the_reader_stop_the_model(pipe, photos):
    with pytest.raises(KeyError):
        for _partial in pipe.ask(photos[0], "Hi", stream=True, max_new_tokens=100):
            raise KeyError("mine")
    assert not streams()


def test_stopping_criteria_of_the_caller_hold(pipe, photos):
    def after_two(input_ids, scores, **kwargs):
        return torch.tensor([input_ids.shape[1] >= length + 2])

    length = pipe.processor.count_tokens("Hi")
    expected = pipe.ask(photos[0], "Hi", max_new_tokens=2).markup
    how = {"generate_kwargs": {"stopping_criteria": [after_two]}}
    assert list(pipe.ask(photos[0], "Hi", stream=True, **how))[-1].markup == expected
    assert pipe.ask(photos[0], "Hi", **how).markup == expected


def test_a_character_in_pieces_is_not_shown(pipe, photos, monkeypatch):
    """Of a character of several bytes nothing is seen before its last token."""
    tokenizer = pipe.processor.tokenizer
    ids = tokenizer("aé猫", add_special_tokens=False)["input_ids"]
    assert any(tokenizer.decode(ids[:end]).endswith("\ufffd") for end in range(1, len(ids)))
    original = pipe.model.generate

    def write(streamer=None, **inputs):
        for step in ([*inputs["input_ids"][0]], *([index] for index in ids)):
            streamer.put(torch.tensor([step]) if len(step) > 1 else torch.tensor(step))
        output = original(**{**inputs, "max_new_tokens": 1})
        output.sequences = torch.cat([inputs["input_ids"], torch.tensor([ids])], dim=1)
        return output

    monkeypatch.setattr(pipe.model, "generate", write)
    texts = [partial.text for partial in pipe.ask(photos[0], "Hi", stream=True)]
    assert texts[-1].endswith("猫") and not any("\ufffd" in text for text in texts)


def test_sampled_streams_are_repeatable(pipe, photos):
    def sample():
        torch.manual_seed(3)
        how = {"do_sample": True, "temperature": 3.0}
        return list(pipe.ask(photos[0], "Hi", stream=True, generate_kwargs=how))[-1].markup

    assert sample() == sample()
