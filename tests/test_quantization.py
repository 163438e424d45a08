"""Quantizers convert the language model alone: regions and boxes are those of the full model."""

import pytest
import torch
from torch import nn
from transformers import AutoModel, AutoModelForImageTextToText, BitsAndBytesConfig
from transformers.quantizers import HfQuantizer, register_quantization_config, register_quantizer
from transformers.quantizers.quantizers_utils import should_convert_module
from transformers.utils.quantization_config import QuantizationConfigMixin

from transformers_groma import GromaForConditionalGeneration, GromaForRegionProposal, GromaModel
from transformers_groma.modeling_groma_base import VISUAL_PARTS

from .tiny import spread_proposals, tiny_detector_config, tiny_inputs, tiny_model

# bitsandbytes wants rows of at least 64 numbers.
TEXT = {"hidden_size": 64, "intermediate_size": 128}
LANGUAGE_MODEL = {
    f"model.language_model.layers.{layer}.{name}"
    for layer in (0, 1)
    for name in (
        *(f"self_attn.{letter}_proj" for letter in "qkvo"),
        *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
    )
}


def linear_layers(model: nn.Module) -> set[str]:
    return {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}


def not_converted(model, users=None) -> list[str]:
    """As bitsandbytes, torchao, quanto, HQQ's successors, fp8 and most others ask."""
    return HfQuantizer.get_modules_to_not_convert(model, users, model._keep_in_fp32_modules)


def converted(model, users=None) -> set[str]:
    patterns = not_converted(model, users)
    return {name for name in linear_layers(model) if should_convert_module(name, patterns)}


@pytest.fixture(scope="module")
def model():
    return tiny_model(text_config=TEXT)


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def detector():
    torch.manual_seed(0)
    detector = GromaForRegionProposal(tiny_detector_config()).eval()
    spread_proposals(detector.region_proposer)
    return detector


class TestWhatIsConverted:
    def test_the_language_model_alone(self, model):
        assert converted(model) == LANGUAGE_MODEL
        assert {f"model.{name}" for name in converted(model.model)} == LANGUAGE_MODEL

    def test_a_loaded_model_is_no_other(self, folder):
        assert converted(GromaForConditionalGeneration.from_pretrained(folder)) == LANGUAGE_MODEL
        assert {f"model.{name}" for name in converted(AutoModel.from_pretrained(folder))} == LANGUAGE_MODEL

    def test_nothing_of_the_detector(self, detector):
        assert len(linear_layers(detector)) > 20
        assert converted(detector) == set()

    def test_a_users_list_adds_to_ours(self, model):
        """The head stays in the library's hands: a user's list replaces its own list."""
        skipped = "model.language_model.layers.0"
        expected = {name for name in LANGUAGE_MODEL if not name.startswith(skipped)}
        assert converted(model, [skipped]) == expected | {"lm_head"}
        assert converted(model, [skipped, "lm_head"]) == expected

    def test_a_language_model_with_tied_weights(self):
        tied = tiny_model(text_config={**TEXT, "tie_word_embeddings": True})
        assert tied.lm_head.weight is tied.get_input_embeddings().weight
        assert converted(tied) == LANGUAGE_MODEL
        assert not should_convert_module("lm_head", not_converted(tied))

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_the_list_changes_no_dtype(self, model, dtype):
        assert set(model._get_dtype_plan(dtype)) == {"vision_tower", "region_proposer"}
        assert set(model._keep_in_fp32_modules) >= {f"model.{part}" for part in VISUAL_PARTS}
        assert model._get_dtype_plan(torch.float32) == {}

    def test_a_language_models_own_float32_modules_stay_so(self, model, monkeypatch):
        monkeypatch.setattr(model, "_keep_in_fp32_modules", {*model._keep_in_fp32_modules, "router"})
        assert model._get_dtype_plan(torch.float16)["router"] == torch.float32
        assert "router" not in model._get_dtype_plan(torch.bfloat16)


@register_quantization_config("greedy")
class GreedyConfig(QuantizationConfigMixin):
    """Of a quantizer that asks no model what to leave out."""

    def __init__(self, only: str = "", how: str = "bytes", **kwargs):
        self.quant_method, self.only, self.how = "greedy", only, how


class OddTensor(torch.Tensor):
    """A weight as torchao's: it has a dtype to compute in, but isn't made of numbers of that dtype."""


@register_quantizer("greedy")
class GreedyQuantizer(HfQuantizer):
    def _process_model_after_weight_loading(self, model, **kwargs):
        for name, module in list(model.named_modules()):
            if type(module) is nn.Linear and name.startswith(self.quantization_config.only):
                how = self.quantization_config.how
                if how == "bytes":
                    module.weight = nn.Parameter(module.weight.to(torch.int8), requires_grad=False)
                elif how == "subclass":
                    module.weight = nn.Parameter(module.weight.data.as_subclass(OddTensor), requires_grad=False)
                else:
                    del module.weight
        return model

    def is_serializable(self):
        return True

    is_trainable = False


class TestQuantizersThatDoNotAsk:
    @pytest.mark.parametrize("how", ["bytes", "subclass", "gone"])
    @pytest.mark.parametrize("part", VISUAL_PARTS)
    def test_visual_parts_are_refused(self, folder, part, how):
        config = GreedyConfig(only=f"model.{part}", how=how)
        with pytest.raises(ValueError, match=rf"The quantizer 'greedy' converted `model.{part}\..*other regions"):
            GromaForConditionalGeneration.from_pretrained(folder, quantization_config=config)

    def test_also_with_loading_info_and_from_auto_classes(self, folder):
        with pytest.raises(ValueError, match="'greedy' converted"):
            AutoModelForImageTextToText.from_pretrained(
                folder, quantization_config=GreedyConfig(), output_loading_info=True
            )

    def test_the_language_model_is_theirs(self, folder):
        config = GreedyConfig(only="model.language_model")
        model, info = GromaForConditionalGeneration.from_pretrained(
            folder, quantization_config=config, output_loading_info=True
        )
        assert model.model.language_model.layers[0].mlp.up_proj.weight.dtype == torch.int8
        assert info["missing_keys"] == set()


def test_a_detector_says_that_nothing_is_quantized(detector, tmp_path, caplog):
    detector.save_pretrained(tmp_path)
    with caplog.at_level("WARNING", logger="transformers_groma"):
        GromaForRegionProposal.from_pretrained(tmp_path)
        assert "quantization_config" not in caplog.text
        config = GreedyConfig(only="nothing")
        GromaForRegionProposal.from_pretrained(tmp_path, quantization_config=config)


def bits(number: int):
    pytest.importorskip("bitsandbytes")
    return BitsAndBytesConfig(**{f"load_in_{number}bit": True})


def torchao_config():
    quantization = pytest.importorskip("torchao.quantization")
    from transformers import TorchAoConfig

    return TorchAoConfig(quantization.Int8WeightOnlyConfig())


def quanto_config():
    pytest.importorskip("optimum.quanto")
    from transformers import QuantoConfig

    return QuantoConfig(weights="int8")


BACKENDS = {"4bit": lambda: bits(4), "8bit": lambda: bits(8), "torchao": torchao_config, "quanto": quanto_config}


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("backend", BACKENDS)
def test_backends(model, folder, tmp_path, backend, dtype):
    """Regions of the full model to the last bit, generation, saving and loading again, and the detector of what was saved."""
    config = BACKENDS[backend]()
    quantized = GromaForConditionalGeneration.from_pretrained(folder, quantization_config=config, dtype=dtype)
    same = {
        name
        for name, module in quantized.named_modules()
        if type(module) is nn.Linear and type(module.weight.data) is torch.Tensor
    }
    assert linear_layers(model) - same == LANGUAGE_MODEL
    inputs = tiny_inputs(model.config)
    inputs["refer_boxes"] = torch.tensor([[[0.6, 0.5, 0.2, 0.2]], [[0.3, 0.4, 0.5, 0.2]]])
    proposals = model.propose_regions(inputs["pixel_values"], inputs["refer_boxes"])
    given = quantized.propose_regions(inputs["pixel_values"], inputs["refer_boxes"])
    assert torch.equal(given.boxes, proposals.boxes) and torch.equal(given.scores, proposals.scores)
    del inputs["refer_boxes"]
    expected = model(**inputs)
    output = quantized(**inputs)
    assert torch.equal(output.region_boxes, expected.region_boxes)
    close = torch.nn.functional.cosine_similarity(output.logits.float(), expected.logits, dim=-1)
    assert close.mean() > 0.9
    generated = quantized.generate(**inputs, max_new_tokens=3, return_dict_in_generate=True)
    assert torch.equal(generated.region_boxes, expected.region_boxes)

    if not quantized.hf_quantizer.is_serializable():
        return  # quanto
    quantized.save_pretrained(tmp_path)
    again = AutoModelForImageTextToText.from_pretrained(tmp_path, dtype="auto")
    repeated = again(**inputs)
    # On a CPU bitsandbytes packs 4-bit weights anew in the first forward, and rounds their scales.
    tolerance = 0.1 if backend == "4bit" else 0
    torch.testing.assert_close(repeated.logits, output.logits, rtol=0, atol=tolerance)
    assert torch.equal(repeated.region_boxes, expected.region_boxes)
    assert again.lm_head.weight.dtype == (dtype or torch.float32)
    detector = GromaForRegionProposal.from_pretrained(tmp_path)
    expected = model.propose_regions(inputs["pixel_values"])
    assert torch.equal(detector.propose_regions(inputs["pixel_values"]).boxes, expected.boxes)


@pytest.mark.parametrize("backend", BACKENDS)
def test_backends_leave_the_other_models_right(folder, detector, tmp_path, backend):
    config = BACKENDS[backend]()
    pixels = torch.randn(2, 3, 56, 56)
    detector.save_pretrained(tmp_path)
    again = GromaForRegionProposal.from_pretrained(tmp_path, quantization_config=config)
    assert torch.equal(again.propose_regions(pixels).boxes, detector.propose_regions(pixels).boxes)
    base = AutoModel.from_pretrained(folder, quantization_config=config)
    assert type(base) is GromaModel
    full = AutoModel.from_pretrained(folder)
    assert torch.equal(base.propose_regions(pixels).boxes, full.propose_regions(pixels).boxes)
