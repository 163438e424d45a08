"""Settings of answers: where they come from, and which are refused."""

import pytest
from transformers import GenerationConfig

from transformers_groma.answer_settings import BoxSettings, Generation, check_names, check_values


def generation(kwargs: dict, **defaults) -> Generation:
    return Generation(kwargs, GenerationConfig(**defaults))


def test_a_setting_is_that_of_the_call_then_its_config_then_the_model():
    config = GenerationConfig(num_beams=3)
    assert generation({"num_beams": 2, "generation_config": config}, num_beams=4).setting("num_beams") == 2
    assert generation({"generation_config": config}, num_beams=4).setting("num_beams") == 3
    assert generation({}, num_beams=4).setting("num_beams") == 4
    assert generation({}).setting("prompt_lookup_num_tokens") is None


def test_the_longest_answer():
    assert generation({"max_new_tokens": 7}).max_new_tokens == 7
    assert generation({}, max_new_tokens=9).max_new_tokens == 9
    assert generation({"generation_config": GenerationConfig(max_length=100)}).max_new_tokens == 0


def test_settings_of_several_answers():
    for kwargs in ({}, {"num_beams": 1, "num_return_sequences": 1}, {"do_sample": True}):
        generation(kwargs).check_one_answer("A chat")
    for name, value in (("num_beams", 2), ("num_return_sequences", 3)):
        for made in (generation({name: value}), generation({}, do_sample=True, **{name: value})):
            with pytest.raises(ValueError, match=f"^A chat gives one answer.* but `{name}` is {value}. Leave it out"):
                made.check_one_answer("A chat")
    for name in ("assistant_model", "prompt_lookup_num_tokens"):
        with pytest.raises(ValueError, match=f"assisted decoding. Leave `{name}` out"):
            generation({name: 3}).check_one_answer("A chat")


def test_settings_that_do_not_fit_each_other():
    generation({"num_return_sequences": 2, "do_sample": True, "stopping_criteria": []}).check()
    generation({"num_return_sequences": 2}, num_beams=2).check()
    for kwargs in ({"num_return_sequences": 2}, {"num_beams": 2, "num_return_sequences": 3}):
        with pytest.raises(ValueError, match=r"^`generate_kwargs` are not settings that fit .*num_return_sequences"):
            generation(kwargs).check()
    given = GenerationConfig(num_beams=2)
    generation({"generation_config": given, "num_return_sequences": 2}).check()
    assert given.num_return_sequences != 2  # not changed


def test_values_at_the_limits():
    sampling = {"do_sample": True, "temperature": 1e-3, "top_p": 1, "min_p": 0.0, "top_k": 0}
    for kwargs in (sampling, {"temperature": 0.0}, {"max_new_tokens": 1, "min_new_tokens": 0, "num_beams": 1}):
        generation(kwargs).check()
    for name, value in (("top_p", 1.01), ("min_p", -0.1), ("temperature", 0), ("temperature", "hot"), ("top_k", 2.0)):
        with pytest.raises(ValueError, match=f"^`{name}` must be .*, got {value!r}"):
            generation({"do_sample": True, name: value}).check()


def test_names_of_settings():
    check_names(
        "ask", dict.fromkeys(("max_new_tokens", "generate_kwargs", "box_format", "normalized")), BoxSettings, ""
    )
    with pytest.raises(TypeError, match="`ask` does not take `a`, `b`. It takes `image`, .*`normalized`"):
        check_names("ask", {"a": 1, "normalized": True, "b": 2}, BoxSettings, "`image`")


def test_values_of_settings():
    check_values({"max_new_tokens": 1, "batch_size": None, "normalized": False, "box_format": "cxcywh"})
    check_values(
        {"generate_kwargs": {"do_sample": True, "stopping_criteria": [], "tokenizer": 1, "max_new_tokens": 2}}
    )
    for wrong in ("inputs", "input_ids", "pixel_values", "refer_boxes", "past_key_values", "streamer", "temprature"):
        with pytest.raises(ValueError, match=f"`generate_kwargs` has '{wrong}'"):
            check_values({"generate_kwargs": {wrong: 1}})
