"""Compiled and exported models give the results of the plain one."""

import copy
import shutil

import pytest
import torch
from torch.testing import assert_close

from tests.tiny import prompt_ids, tiny_inputs, tiny_model
from transformers_groma import GromaForConditionalGeneration

from .prompts import new_tokens, one


@pytest.fixture(scope="module")
def model() -> GromaForConditionalGeneration:
    return tiny_model(box_score_threshold=0.5)


@pytest.fixture
def inputs(model) -> dict[str, torch.Tensor]:
    return tiny_inputs(model.config, batch_size=3)


def test_compiled_forward(model, inputs):
    """One graph, with images and user boxes; the same logits."""
    with_boxes = dict(inputs)
    with_boxes["input_ids"] = torch.tensor([prompt_ids(model.config, num_boxes=1)] * 3)
    with_boxes["attention_mask"] = torch.ones_like(with_boxes["input_ids"])
    with_boxes["refer_boxes"] = torch.full((3, 1, 4), 0.4)
    compiled = torch.compile(model.forward, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        for case in (inputs, with_boxes):
            assert_close(compiled(**case).logits, model(**case).logits, atol=1e-4, rtol=1e-4)


def test_compiled_decoding(model, inputs):
    compiled = copy.deepcopy(model)
    compiled.forward = torch.compile(compiled.forward, fullgraph=True, backend="aot_eager")
    generated = new_tokens(compiled, inputs, cache_implementation="static", disable_compile=True)
    assert torch.equal(generated, new_tokens(model, inputs))


@pytest.mark.slow
def test_compiled_for_real(model, inputs):
    """With the default backend, which writes and compiles code."""
    if shutil.which("g++") is None:
        pytest.skip("g++ is missing; the default backend cannot compile")
    compiled = torch.compile(model.forward, fullgraph=True)
    with torch.no_grad():
        assert_close(compiled(**inputs).logits, model(**inputs).logits, atol=1e-4, rtol=1e-4)
    assert torch.equal(new_tokens(model, inputs, cache_implementation="static"), new_tokens(model, inputs))


def test_export(model, inputs):
    """A traced program has the slots of every image, whatever their number was in the example."""
    names = ("input_ids", "attention_mask", "pixel_values")
    single = one(inputs, 0)

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids, attention_mask, pixel_values):
            return self.model(
                input_ids=input_ids, attention_mask=attention_mask, pixel_values=pixel_values, use_cache=False
            ).logits

    with torch.no_grad():
        program = torch.export.export(Logits(), tuple(single[name] for name in names), strict=False).module()
        for index in range(3):
            case = one(inputs, index)
            actual = program(*(case[name] for name in names))
            assert_close(actual, model(**case).logits, atol=1e-4, rtol=1e-4)
