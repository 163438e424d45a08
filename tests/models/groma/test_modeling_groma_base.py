"""Every part has the dtype again that it was saved in; quantizers convert the language model alone."""

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors import safe_open
from torch import nn
from transformers import AutoModel, AutoModelForImageTextToText, Trainer, TrainingArguments
from transformers.quantizers import HfQuantizer, register_quantization_config, register_quantizer
from transformers.quantizers.quantizers_utils import should_convert_module
from transformers.utils.quantization_config import QuantizationConfigMixin

from transformers_groma import GromaForConditionalGeneration, GromaForRegionProposal, GromaModel
from transformers_groma.models.groma.modeling_groma_base import (
    PARTS,
    VISUAL_PARTS,
    no_autocast,
    part_dtypes,
    requested_hidden_states,
    requested_output,
)
from transformers_groma.models.groma.modeling_groma_proposer import GromaRegionProposerOutput

from ...tiny import tiny_detector, tiny_detector_config, tiny_inputs, tiny_model

FLOAT32_PARTS = ("vision_tower", "region_proposer")
CLASSES = [GromaForConditionalGeneration, GromaModel, GromaForRegionProposal]


def new_model(cls: type) -> torch.nn.Module:
    if cls is GromaForRegionProposal:
        return GromaForRegionProposal(tiny_detector_config()).eval()
    model = tiny_model()
    return model if cls is GromaForConditionalGeneration else model.model


@pytest.fixture(scope="module", params=CLASSES, ids=lambda cls: cls.__name__)
def folder(request, tmp_path_factory) -> Path:
    """A float32 model as it comes from training."""
    folder = tmp_path_factory.mktemp("model")
    new_model(request.param).save_pretrained(folder)
    return folder


@pytest.fixture
def cls(folder) -> type:
    return {cls.__name__: cls for cls in CLASSES}[json.loads((folder / "config.json").read_text())["architectures"][0]]


def dtypes(model: torch.nn.Module) -> dict[str, torch.dtype]:
    return {name: weight.dtype for name, weight in model.named_parameters()}


def saved_config(folder: Path) -> dict:
    return json.loads((folder / "config.json").read_text())


def assert_files_hold(folder: Path, model: torch.nn.Module) -> None:
    """The files have the weights' bytes and a header, not more, and the weights' dtypes."""
    files = list(folder.glob("*.safetensors"))
    weights = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    headers = sum(int.from_bytes(path.read_bytes()[:8], "little") + 8 for path in files)
    assert sum(path.stat().st_size for path in files) == weights + headers
    shortest = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
    expected = {shortest[str(weight.dtype).removeprefix("torch.")] for weight in model.parameters()}
    found = set()
    for path in files:
        with safe_open(path, "pt") as file:
            found |= {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
    assert found == expected


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize(
    "options", [{}, {"max_shard_size": "100KB"}, {"state_dict": None}], ids=["", "shards", "trainer"]
)
def test_a_loaded_model_comes_back_as_it_was(folder, cls, tmp_path, dtype, options):
    model = cls.from_pretrained(folder, dtype=dtype)
    loaded = dtypes(model)
    for name, weight_dtype in loaded.items():
        assert weight_dtype == (torch.float32 if any(part in name for part in FLOAT32_PARTS) else dtype), name
    model.save_pretrained(tmp_path, **options)
    assert len(list(tmp_path.glob("*.safetensors"))) == (
        1 if "max_shard_size" not in options else pytest.approx(10, abs=9)
    )
    config = saved_config(tmp_path)
    assert config["dtype"] == ("float32" if cls is GromaForRegionProposal else str(dtype).removeprefix("torch."))
    assert not config.get("part_dtypes")
    assert_files_hold(tmp_path, model)
    again = cls.from_pretrained(tmp_path, dtype="auto")
    assert dtypes(again) == loaded
    assert all(torch.equal(one, other) for one, other in zip(again.parameters(), model.parameters(), strict=True))
    again.save_pretrained(tmp_path / "again")
    assert dtypes(cls.from_pretrained(tmp_path / "again", dtype="auto")) == loaded
    assert dtypes(cls.from_pretrained(tmp_path)) == loaded
    assert set(dtypes(cls.from_pretrained(tmp_path, dtype=torch.float32)).values()) == {torch.float32}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_that_was_cast_as_a_whole(folder, cls, tmp_path, dtype):
    model = cls.from_pretrained(folder).to(dtype)
    model.save_pretrained(tmp_path)
    assert_files_hold(tmp_path, model)
    assert saved_config(tmp_path)["dtype"] == str(dtype).removeprefix("torch.")
    again = cls.from_pretrained(tmp_path, dtype="auto")
    assert set(dtypes(again).values()) == {dtype}
    # In another dtype it is loaded as any model is.
    other = torch.float16 if dtype == torch.bfloat16 else torch.bfloat16
    for name, weight_dtype in dtypes(cls.from_pretrained(tmp_path, dtype=other)).items():
        assert weight_dtype == (torch.float32 if any(part in name for part in FLOAT32_PARTS) else other)
    assert set(dtypes(cls.from_pretrained(tmp_path, dtype=torch.float32)).values()) == {torch.float32}
    # Cast back, nothing remains of it.
    again.float().save_pretrained(tmp_path / "float")
    assert not saved_config(tmp_path / "float").get("part_dtypes")
    assert set(dtypes(cls.from_pretrained(tmp_path / "float", dtype="auto")).values()) == {torch.float32}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("part", PARTS)
def test_one_part_in_another_dtype(tmp_path, dtype, part):
    tiny_model().save_pretrained(tmp_path)
    model = GromaForConditionalGeneration.from_pretrained(tmp_path, dtype=dtype)
    others = {torch.float32: torch.bfloat16, torch.bfloat16: torch.float32}
    module = model.lm_head if part == "lm_head" else model.get_submodule(f"model.{part}")
    module.to(others[next(module.parameters()).dtype])
    changed = dtypes(model)
    model.save_pretrained(tmp_path / "changed")
    assert dtypes(GromaForConditionalGeneration.from_pretrained(tmp_path / "changed", dtype="auto")) == changed
    assert_files_hold(tmp_path / "changed", model)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("modules_to_save", [None, ["multi_modal_projector", "region_encoder"]])
def test_merged_lora(tmp_path, dtype, modules_to_save):
    tiny_model().save_pretrained(tmp_path)
    model = GromaForConditionalGeneration.from_pretrained(tmp_path, dtype=dtype)
    config = LoraConfig(target_modules=r".*language_model.*(q|v)_proj", modules_to_save=modules_to_save)
    merged = get_peft_model(model, config).merge_and_unload()
    assert type(merged) is GromaForConditionalGeneration
    before = dtypes(merged)
    merged.save_pretrained(tmp_path / "merged")
    assert saved_config(tmp_path / "merged")["dtype"] == str(dtype).removeprefix("torch.")
    again = AutoModelForImageTextToText.from_pretrained(tmp_path / "merged", dtype="auto")
    assert dtypes(again) == before
    assert again.model.language_model.dtype == dtype and again.model.vision_tower.dtype == torch.float32
    assert_files_hold(tmp_path / "merged", again)
    inputs = tiny_inputs(again.config)
    assert torch.equal(again(**inputs).logits, merged.eval()(**inputs).logits)


def test_trainer(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    model = GromaForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.bfloat16)
    Trainer(model, TrainingArguments(tmp_path / "trainer", report_to=[], use_cpu=True)).save_model()
    again = GromaForConditionalGeneration.from_pretrained(tmp_path / "trainer", dtype="auto")
    assert dtypes(again) == dtypes(model)
    assert saved_config(tmp_path / "trainer")["dtype"] == "bfloat16"


def test_the_weights_that_are_written_decide(tmp_path):
    """A trainer gathers them from many processes, and may have cast them."""
    model = tiny_model()
    state_dict = {name: weight.bfloat16() for name, weight in model.state_dict().items()}
    model.save_pretrained(tmp_path, state_dict=state_dict)
    assert saved_config(tmp_path)["dtype"] == "bfloat16"
    again = GromaForConditionalGeneration.from_pretrained(tmp_path, dtype="auto")
    assert set(dtypes(again).values()) == {torch.bfloat16}


def test_saving_leaves_the_model_alone(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    model = GromaForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.bfloat16)
    before, dtype = dtypes(model), model.dtype
    model.save_pretrained(tmp_path / "again")
    assert dtypes(model) == before and model.dtype == dtype
    (tmp_path / "file").touch()
    with pytest.raises(Exception):  # noqa: B017 - whatever goes wrong while saving
        model.save_pretrained(tmp_path / "file" / "folder")
    assert model.dtype == dtype


def test_the_detector_of_a_model_in_half_precision(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    model = GromaForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.bfloat16)
    model.save_pretrained(tmp_path / "half")
    detector = GromaForRegionProposal.from_pretrained(tmp_path / "half", dtype="auto")
    assert set(dtypes(detector).values()) == {torch.float32}
    base = AutoModel.from_pretrained(tmp_path / "half", dtype="auto")
    assert base.language_model.dtype == torch.bfloat16 and base.vision_tower.dtype == torch.float32


def test_most_of_a_parts_weights_count():
    weights = {
        "language_model.norm.weight": torch.zeros(2),
        "language_model.layers.0.weight": torch.zeros(3, 3).bfloat16(),
        "language_model.layers.1.weight": torch.zeros(99, 99).char(),
        "region_encoder.bias": torch.zeros(3).half(),
        "something_else": torch.zeros(99).double(),
    }
    assert part_dtypes(weights) == {
        "language_model": torch.bfloat16,
        "region_encoder": torch.float16,
        "model": torch.bfloat16,
    }
    assert (
        part_dtypes({"vision_tower.bias": torch.zeros(1), "region_proposer.bias": torch.zeros(2).half()})["model"]
        == torch.float16
    )
    assert part_dtypes({}) == {}


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
def whole():
    return tiny_model()


@pytest.fixture(scope="module")
def whole_folder(whole, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    whole.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def detector():
    return tiny_detector()


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
        assert set(whole._get_dtype_plan(dtype)) == {"vision_tower", "region_proposer"}
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
        with pytest.raises(ValueError, match=rf"The quantizer 'greedy' converted `model.{part}\..*other regions"):
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


class TestPieces:
    @pytest.fixture(scope="class")
    def model(self) -> GromaModel:
        return tiny_model(proposer_config={"num_vision_layers": 2}).model

    @pytest.mark.parametrize("shape", [(3, 56, 56), (1, 3, 56, 57), (1, 3, 57, 56), (1, 3, 28, 28), (1, 1, 3, 56, 56)])
    def test_pixels_of_another_shape_are_refused_before_any_work(self, model, shape, monkeypatch):
        monkeypatch.setattr(type(model.vision_tower), "forward", lambda *_, **__: pytest.fail("the encoder ran"))
        with pytest.raises(
            ValueError, match=rf"\(number of images, channels, 56, 56\), got \({shape[0]}, .*own processor"
        ):
            model.detect(torch.zeros(shape))

    def test_patches_as_a_map_row_by_row_without_other_tokens(self, model):
        for num_others in (0, 1, 5):
            tokens = torch.arange((num_others + 16) * 2.0).view(1, -1, 2)
            feature_map = model.feature_map(tokens)
            assert feature_map.shape == (1, 2, 4, 4)
            for row in range(4):
                for column in range(4):
                    assert torch.equal(feature_map[0, :, row, column], tokens[0, num_others + 4 * row + column])

    @pytest.mark.parametrize("num_layers", [1, 2, 3])
    def test_the_proposer_sees_the_mean_of_the_last_layers(self, num_layers):
        model = tiny_model(proposer_config={"num_vision_layers": num_layers}).model
        states = tuple(torch.full((1, 17, 2), float(3**layer)) for layer in range(4))
        expected = sum(3**layer for layer in range(4)[-num_layers:]) / num_layers
        torch.testing.assert_close(model.proposer_feature_map(states), torch.full((1, 2, 4, 4), expected))

    @pytest.mark.parametrize(
        ("asked", "configured", "expected"),
        [(None, False, False), (None, True, True), (False, True, False), (True, False, True), ([1], False, [1])],
    )
    def test_what_the_call_says_comes_before_the_configuration(self, asked, configured, expected):
        config = tiny_detector_config()
        config.output_hidden_states = configured
        assert requested_output({"output_hidden_states": asked}, config, "output_hidden_states") == expected
        assert requested_output({}, config, "output_hidden_states") is configured

    def test_hidden_states_that_are_asked_for(self):
        states, config = tuple(torch.tensor(float(index)) for index in range(4)), tiny_detector_config()
        for asked, kept in (
            (None, None),
            (False, None),
            ([], None),
            (True, [0, 1, 2, 3]),
            ([0], [0]),
            ([-1, 2], [2, 3]),
        ):
            found = requested_hidden_states(states, {"output_hidden_states": asked}, config)
            if kept is None:
                assert found is None
            else:
                assert [index for index, state in enumerate(found) if state is not None] == kept
                assert all(found[index] is states[index] for index in kept) and len(found) == 4

    def test_autocast_is_off_inside(self):
        weight = torch.ones(2, 2)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert (weight @ weight).dtype == torch.bfloat16
            with no_autocast(weight):
                assert (weight @ weight).dtype == torch.float32
            assert (weight @ weight).dtype == torch.bfloat16

    @pytest.mark.parametrize(("chosen", "expected"), [("eager", "eager"), ("sdpa", "sdpa")])
    def test_attention_of_the_proposer(self, chosen, expected):
        config = tiny_detector_config()
        config._attn_implementation = chosen
        assert GromaForRegionProposal(config).config.proposer_config._attn_implementation == expected

    def test_regions_are_chosen_with_the_settings_of_the_configuration(self):
        model = tiny_model(max_regions=3, nms_threshold=0.3, box_score_threshold=0.4).model
        boxes = torch.tensor(
            [[[0.3, 0.3, 0.2, 0.2], [0.3, 0.36, 0.2, 0.2], [0.7, 0.7, 0.1, 0.1], [0.1, 0.9, 0.1, 0.1]]]
        )
        proposals = GromaRegionProposerOutput(pred_boxes=boxes, scores=torch.tensor([[0.9, 0.8, 0.41, 0.39]]))
        selection = model.select_regions(proposals)
        assert selection.mask.tolist() == [[True, True, False]]
        torch.testing.assert_close(selection.boxes[0, :2], boxes[0, [0, 2]])
        torch.manual_seed(0)
        firsts = {model.select_regions(proposals, permute=True).scores[0, 0].item() for _ in range(20)}
        assert len(firsts) == 2


class TestDetect:
    """The one step from images to proposals."""

    def test_it_is_the_vision_encoder_and_the_proposer_in_every_class(self):
        groma, detector = tiny_model(), tiny_detector()
        detector.load_state_dict(groma.model.state_dict(), strict=False)
        pixels = tiny_inputs(groma.config)["pixel_values"]
        expected = detector(pixels, output_hidden_states=True)
        for model in (groma, groma.model, detector):
            vision, proposals = model.detect(pixels)
            assert len(vision.hidden_states) == 5
            for found, state in zip(vision.hidden_states, expected.hidden_states, strict=True):
                assert torch.equal(found, state)
            for name, value in expected.proposer_output.items():
                assert torch.equal(proposals[name], value), name

    def test_proposals_are_exact_constants_and_the_vision_encoder_can_learn(self):
        model = tiny_model()
        pixels = tiny_inputs(model.config)["pixel_values"]
        exact = model.detect(pixels)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            vision, proposals = model.detect(pixels)
        assert torch.equal(proposals.pred_boxes, exact.proposals.pred_boxes)
        assert torch.equal(vision.last_hidden_state, exact.vision.last_hidden_state)
        assert vision.last_hidden_state.requires_grad and not proposals.scores.requires_grad

    def test_for_losses_gradients_reach_the_proposer_and_autocast_applies(self):
        model = tiny_detector()
        pixels = torch.randn(1, 3, 56, 56)
        exact = model.detect(pixels, differentiable=True)
        assert torch.equal(exact.proposals.scores, model.detect(pixels).proposals.scores)
        exact.proposals.scores.sum().backward()
        assert model.region_proposer.class_embed_coco[-1].weight.grad.any()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert not torch.equal(model.detect(pixels, differentiable=True).proposals.scores, exact.proposals.scores)

    def test_attentions_are_returned_when_asked_for(self):
        model = GromaForRegionProposal(tiny_detector_config()).eval()
        model.set_attn_implementation("eager")
        pixels = torch.zeros(1, 3, 56, 56)
        assert not model.detect(pixels).vision.attentions
        assert len(model.detect(pixels, output_attentions=True).vision.attentions) == 4
