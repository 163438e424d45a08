"""Quantizers convert the language model alone."""

import pytest
import torch
from torch import nn
from transformers import AutoModel, AutoModelForImageTextToText
from transformers.quantizers import HfQuantizer, register_quantization_config, register_quantizer
from transformers.quantizers.quantizers_utils import should_convert_module
from transformers.utils.quantization_config import QuantizationConfigMixin

from transformers_groma import GromaForConditionalGeneration, GromaForRegionProposal
from transformers_groma.models.groma.modeling_groma_base import VISUAL_PARTS

from ...tiny import LANGUAGE_MODEL, MASK_DECODER, linear_layers, tiny_detector, tiny_model


def not_converted(model, users=None) -> list[str]:
    """As bitsandbytes, torchao, quanto, HQQ's successors, fp8 and most others ask."""
    return HfQuantizer.get_modules_to_not_convert(model, users, model._keep_in_fp32_modules)


def converted(model, users=None) -> set[str]:
    patterns = not_converted(model, users)
    return {name for name in linear_layers(model) if should_convert_module(name, patterns)}


@pytest.fixture(scope="module")
def whole():
    return tiny_model(mask_decoder_config=MASK_DECODER)


@pytest.fixture(scope="module")
def whole_folder(whole, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    whole.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def detector():
    return tiny_detector(mask_decoder_config=MASK_DECODER)


class TestWhatIsConverted:
    def test_the_language_model_alone(self, whole):
        assert converted(whole) == LANGUAGE_MODEL
        assert {f"model.{name}" for name in converted(whole.model)} == LANGUAGE_MODEL

    def test_a_loaded_model_is_no_other(self, whole_folder):
        assert converted(GromaForConditionalGeneration.from_pretrained(whole_folder)) == LANGUAGE_MODEL
        assert {f"model.{name}" for name in converted(AutoModel.from_pretrained(whole_folder))} == LANGUAGE_MODEL

    def test_nothing_of_the_detector(self, detector):
        assert len(linear_layers(detector)) > 20
        assert converted(detector) == set()

    def test_a_users_list_adds_to_ours(self, whole):
        """The head stays in the library's hands: a user's list replaces its own list."""
        skipped = "model.language_model.layers.0"
        expected = {name for name in LANGUAGE_MODEL if not name.startswith(skipped)}
        assert converted(whole, [skipped]) == expected | {"lm_head"}
        assert converted(whole, [skipped, "lm_head"]) == expected

    def test_a_language_model_with_tied_weights(self):
        tied = tiny_model(text_config={"tie_word_embeddings": True})
        assert tied.lm_head.weight is tied.get_input_embeddings().weight
        assert converted(tied) == LANGUAGE_MODEL
        assert not should_convert_module("lm_head", not_converted(tied))

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_the_list_changes_no_dtype(self, whole, dtype):
        assert set(whole._get_dtype_plan(dtype)) == {"vision_tower", "region_proposer", "mask_decoder"}
        assert set(whole._keep_in_fp32_modules) >= {f"model.{part}" for part in VISUAL_PARTS}
        assert whole._get_dtype_plan(torch.float32) == {}

    def test_a_language_models_own_float32_modules_stay_so(self, whole, monkeypatch):
        monkeypatch.setattr(whole, "_keep_in_fp32_modules", {*whole._keep_in_fp32_modules, "router"})
        assert whole._get_dtype_plan(torch.float16)["router"] == torch.float32
        assert "router" not in whole._get_dtype_plan(torch.bfloat16)


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
    def test_visual_parts_are_refused(self, whole_folder, part, how):
        config = GreedyConfig(only=f"model.{part}", how=how)
        with pytest.raises(ValueError, match=rf"The quantizer 'greedy' converted `model.{part}\..*something else"):
            GromaForConditionalGeneration.from_pretrained(whole_folder, quantization_config=config)

    def test_also_with_loading_info_and_from_auto_classes(self, whole_folder):
        with pytest.raises(ValueError, match="'greedy' converted"):
            AutoModelForImageTextToText.from_pretrained(
                whole_folder, quantization_config=GreedyConfig(), output_loading_info=True
            )

    def test_the_language_model_is_theirs(self, whole_folder):
        config = GreedyConfig(only="model.language_model")
        model, info = GromaForConditionalGeneration.from_pretrained(
            whole_folder, quantization_config=config, output_loading_info=True
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
    assert "GromaForRegionProposal has no language model: `quantization_config` changes nothing" in caplog.text
