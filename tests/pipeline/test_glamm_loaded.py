"""A GLaMM from a folder, in every way that people load one, behind the verbs and the engine."""

import asyncio

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import BitsAndBytesConfig, pipeline

from transformers_groma import ImageGroundingPipeline
from transformers_groma.loading import load_model
from transformers_groma.serving.engine import Engine, Sampling

from ..scripted import Scripted, grounded_script
from ..tiny_checkpoint import save_tiny_glamm, tiny_glamm_parts
from .samples import BOX

HOW = {"masks": True, "max_new_tokens": 5}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """As wide as bitsandbytes wants the rows of a language model."""
    text_config = {"hidden_size": 64, "intermediate_size": 128}
    return save_tiny_glamm(tmp_path_factory.mktemp("glamm"), text_config=text_config)


def answer_of(pipe, photo):
    """What a model answers that writes `<p> a </p> [SEG] i`."""
    script = Scripted(pipe.model, *grounded_script(pipe.processor))
    try:
        return pipe.ask(photo, "What is this?", boxes=[BOX], **HOW)
    finally:
        script.remove()


@pytest.fixture(scope="module")
def expected(folder, photos):
    return answer_of(ImageGroundingPipeline.from_pretrained(folder, device="cpu"), photos[0])


@pytest.mark.parametrize(
    "how",
    [
        {"device_map": {"": "cpu"}},
        {"device_map": "auto"},
        {"dtype": "auto", "device": "cpu"},
        {"device": "cpu", "model_kwargs": {"attn_implementation": "eager"}},
    ],
    ids=["one-device", "auto", "dtype", "eager"],
)
def test_loaded_in_other_ways_it_answers_the_same(folder, photos, expected, how):
    answer = answer_of(ImageGroundingPipeline.from_pretrained(folder, **how), photos[0])
    assert answer.markup == expected.markup and list(answer.masks) == [0, 1]
    for number, mask in expected.masks.items():
        assert (answer.masks[number] == mask).mean() > 0.99


def test_parts_on_disk(folder, photos, expected, tmp_path):
    """The grounding encoder comes from the disk when the first mask needs it."""
    parts = ("vision_tower", "multi_modal_projector", "region_encoder", "language_model", "prompt_projection")
    places = {f"model.{part}": "cpu" for part in (*parts, "mask_decoder")} | {"lm_head": "cpu"}
    device_map = {**places, "model.grounding_encoder": "disk"}
    pipe = ImageGroundingPipeline.from_pretrained(
        folder, device_map=device_map, model_kwargs={"offload_folder": tmp_path}
    )
    assert next(pipe.model.model.grounding_encoder.parameters()).is_meta
    answer = answer_of(pipe, photos[0])
    assert all(np.array_equal(answer.masks[number], mask) for number, mask in expected.masks.items())


def test_half_precision(folder, photos, expected):
    pipe = ImageGroundingPipeline.from_pretrained(folder, device="cpu", dtype=torch.bfloat16)
    answer = answer_of(pipe, photos[0])
    assert pipe.model.lm_head.weight.dtype == torch.bfloat16
    assert answer.markup == expected.markup and list(answer.masks) == [0, 1]
    assert (answer.masks[0] == expected.masks[0]).mean() > 0.9


@pytest.mark.parametrize("bits", [4, 8])
def test_quantized(folder, photos, expected, bits):
    """What SAM sees and decodes stays as it is; the language model's states are other ones."""
    pytest.importorskip("bitsandbytes")
    config = BitsAndBytesConfig(**{f"load_in_{bits}bit": True})
    pipe = ImageGroundingPipeline.from_pretrained(folder, model_kwargs={"quantization_config": config})
    answer = answer_of(pipe, photos[0])
    assert answer.markup == expected.markup and answer.phrases[0].masks.shape == (1, 240, 320)
    assert (answer.masks[0] == expected.masks[0]).mean() > 0.99
    Scripted(pipe.model, *grounded_script(pipe.processor))
    chat = pipe.chat(photos[0])
    for question in ("Hi", "And?"):
        answer = chat.ask(question, max_new_tokens=5)
        assert answer.markup == expected.markup and answer.phrases[0].masks.shape == (1, 240, 320)


def test_an_adapter_answers_by_its_folder(folder, photos, expected, tmp_path):
    """In the pipeline, and in the engine, which takes its base model's processor."""
    base, processor = load_model(folder, "cpu")
    get_peft_model(base, LoraConfig(target_modules=r".*language_model.*\.q_proj")).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    model, processor = load_model(tmp_path, "cpu")
    assert any(".lora_A." in name for name, _ in model.named_parameters())
    pipe = pipeline("image-grounding", model=model, processor=processor)
    answer = answer_of(pipe, photos[0])
    assert answer.markup == expected.markup
    assert all((answer.masks[number] == mask).mean() > 0.99 for number, mask in expected.masks.items())
    engine = Engine.from_pretrained(tmp_path, device="cpu")
    Scripted(engine.model, *grounded_script(engine.processor))
    content = [{"type": "image", "image": photos[0]}, {"type": "text", "text": "Hi"}]
    messages = [{"role": "user", "content": content}]
    try:
        served = asyncio.run(engine.answer(messages, Sampling(max_new_tokens=5), masks=True))
    finally:
        engine.close(20)
    assert served.grounded.markup == expected.markup and len(served.masks) == 1


def test_a_model_with_a_new_adapter_answers(photos):
    """As before the first step of a training in the same process."""
    model, processor = tiny_glamm_parts()
    script = Scripted(model, *grounded_script(processor))
    pipe = pipeline("image-grounding", model=model, processor=processor)
    expected = pipe.ask(photos[0], "What is this?", boxes=[BOX], **HOW)
    model.add_adapter(LoraConfig(target_modules=r".*language_model.*\.q_proj"))
    answer = pipe.ask(photos[0], "What is this?", boxes=[BOX], **HOW)
    script.remove()
    assert answer.markup == expected.markup and list(answer.masks) == list(expected.masks)
