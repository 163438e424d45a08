"""Loading options on models of both families: only the language model changes, and answers stay sensible."""

import dataclasses
import pickle

import pytest
import torch

from transformers_groma.evaluation.fingerprints import model_sha256
from transformers_groma.loading import load_model, load_weights
from transformers_groma.loading_options import AS_SAVED, LoadingOptions
from transformers_groma.models.groma.modeling_groma_detector import GromaForRegionProposal
from transformers_groma.pipeline import ImageGroundingPipeline
from transformers_groma.shapes.scenes import make_scene

FOLDERS = {name: f"hub_configs/{name}-tiny" for name in ("groma", "glamm")}
PACKAGES = {"4bit": "bitsandbytes", "8bit": "bitsandbytes", "int8": "torchao"}


@pytest.fixture(scope="module")
def whole():
    return {name: load_model(folder, "cpu") for name, folder in FOLDERS.items()}


def image():
    return make_scene(0, "test", 3, 448).draw()


def caption(model, processor) -> str:
    return ImageGroundingPipeline(model=model, processor=processor, task="image-grounding").caption(image()).text


def is_plain(weight: torch.Tensor) -> bool:
    return type(weight.data) is torch.Tensor and weight.is_floating_point()


def in_layers(name: str) -> bool:
    return name.startswith("model.language_model.layers.")


@pytest.mark.parametrize("dtype", ["auto", "bfloat16"])
@pytest.mark.parametrize("quantization", PACKAGES)
@pytest.mark.parametrize("name", FOLDERS)
def test_only_the_language_model_is_quantized(whole, name, quantization, dtype):
    """The head, the embedding and all that sees stay plain weights; what is seen is the same to the last bit."""
    pytest.importorskip(PACKAGES[quantization])
    expected, _ = whole[name]
    model, processor = load_model(FOLDERS[name], "cpu", LoadingOptions(dtype=dtype, quantization=quantization))
    quantized = {weight_name for weight_name, weight in model.named_parameters() if not is_plain(weight)}
    linear = {
        f"{path}.weight"
        for path, module in expected.named_modules()
        if isinstance(module, torch.nn.Linear) and in_layers(path)
    }
    assert quantized == linear
    assert model.lm_head.weight.dtype == (torch.bfloat16 if dtype == "bfloat16" else torch.float32)
    pixels = processor.image_processor([image()], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        seen, truth = model.model.encode_patches(pixels), expected.model.encode_patches(pixels)
    assert torch.equal(seen.last_hidden_state, truth.last_hidden_state)
    if name == "groma":
        assert torch.equal(model.propose_regions(pixels).boxes, expected.propose_regions(pixels).boxes)
    # Trained models still say what is there.
    assert caption(model, processor).startswith("The image shows a small")


@pytest.mark.parametrize("options", [LoadingOptions(attn="eager"), LoadingOptions(offload=True)])
@pytest.mark.parametrize("name", FOLDERS)
def test_the_same_answer(whole, name, options):
    model, processor = load_model(FOLDERS[name], "cpu", options)
    offloaded = {weight_name for weight_name, weight in model.named_parameters() if weight.is_meta}
    layers = {weight_name for weight_name, _ in whole[name][0].named_parameters() if in_layers(weight_name)}
    assert offloaded == (layers if options.offload else set())
    assert model.config.text_config._attn_implementation == (options.attn or "sdpa")
    assert caption(model, processor) == caption(*whole[name])


def test_half_precision_offloaded():
    """Weights that are converted are written into a folder that is gone with the model."""
    model, processor = load_model(FOLDERS["groma"], "cpu", LoadingOptions(dtype="bfloat16", offload=True))
    assert caption(model, processor).startswith("The image shows a small")
    assert model.lm_head.weight.dtype == torch.bfloat16


@pytest.mark.parametrize("name", FOLDERS)
def test_compiled_answers_are_the_same(whole, name, monkeypatch):
    """With a growing cache: a graph for the first image, for its answer, and for other lengths none."""
    compile_model = torch.nn.Module.compile
    # The default backend would write and compile code for a minute.
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda self, **kwargs: compile_model(self, backend="eager", **kwargs)
    )
    torch.compiler.reset()
    model, processor = load_model(FOLDERS[name], "cpu", LoadingOptions(compile=True))
    torch._dynamo.utils.counters.clear()
    assert caption(model, processor) == caption(*whole[name])
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert 2 <= graphs <= 4
    pipes = [
        ImageGroundingPipeline(model=one, processor=processor, task="image-grounding")
        for one in (model, whole[name][0])
    ]
    one, other = (pipe(image(), "What is <region>?", boxes=[[20, 30, 190, 210]]) for pipe in pipes)
    assert one.markup == other.markup
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= graphs + 1
    torch.compiler.reset()


@pytest.mark.slow
def test_compiled_for_real(whole):
    torch.compiler.reset()
    model, processor = load_model(FOLDERS["groma"], "cpu", LoadingOptions(compile=True))
    assert caption(model, processor) == caption(*whole["groma"])
    torch.compiler.reset()


def test_a_quantized_model_is_not_quantized_again(tmp_path):
    pytest.importorskip("torchao")
    model, processor = load_model(FOLDERS["groma"], "cpu", LoadingOptions(quantization="int8"))
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert caption(*load_model(tmp_path, "cpu")).startswith("The image shows a small")
    with pytest.raises(ValueError, match=r"`quantization='8bit'` is for weights in full or half precision, and the"):
        load_model(tmp_path, "cpu", LoadingOptions(quantization="8bit"))


def test_flash_attention_in_float32_is_refused(monkeypatch):
    monkeypatch.setattr("transformers_groma.loading.check_loading", lambda options, device: None)
    with pytest.raises(
        ValueError, match=r"`attn='flash_attention_2'` computes in half precision, and the model was saved"
    ):
        load_model(FOLDERS["groma"], "cpu", LoadingOptions(attn="flash_attention_2"))


def test_detectors_leave_out_what_is_for_language_models(caplog):
    options = LoadingOptions(quantization="4bit", offload=False, attn="eager")
    detector = load_weights(GromaForRegionProposal, FOLDERS["groma"], "cpu", options)
    assert "No language model is loaded, so `quantization` changes nothing: leave it out." in caplog.text
    assert detector.config._attn_implementation == "eager" and all(map(is_plain, detector.parameters()))


def test_fingerprints_know_what_is_quantized_and_not_where_weights_wait(whole):
    pytest.importorskip("torchao")
    expected = model_sha256(*whole["groma"])
    assert model_sha256(*load_model(FOLDERS["groma"], "cpu", LoadingOptions(offload=True))) == expected
    int8 = LoadingOptions(quantization="int8")
    digests = {model_sha256(*load_model(FOLDERS["groma"], "cpu", int8)) for _ in range(2)}
    assert len(digests) == 1 and expected not in digests


def test_the_value():
    """It travels to other processes and through files, and takes a dtype of torch for its name."""
    options = LoadingOptions(dtype=torch.bfloat16, quantization="4bit", attn="sdpa", compile=True)
    assert options == LoadingOptions("bfloat16", "4bit", "sdpa", True) and options != AS_SAVED
    assert pickle.loads(pickle.dumps(options)) == options == LoadingOptions(**dataclasses.asdict(options))
    assert LoadingOptions(attn="flash_attention_2", compile=True).without_language_model() == AS_SAVED
    for wrong, words in (
        ({"dtype": "int8"}, "`dtype` must be one of 'auto', 'float32'"),
        ({"quantization": "nf4"}, "`quantization` must be one of None, '4bit', '8bit', 'int8', got 'nf4'"),
        ({"attn": "flash"}, "`attn` must be one of None, 'eager', 'sdpa'"),
        ({"compile": "yes"}, "`compile` must be True or False, got 'yes'"),
        ({"offload": True, "quantization": "int8"}, "exclude each other"),
        ({"offload": True, "compile": True}, "exclude each other"),
    ):
        with pytest.raises(ValueError, match=words):
            LoadingOptions(**wrong)
