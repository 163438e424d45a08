"""Offloading: any part on disk or in CPU memory gives equal results."""

import copy
from pathlib import Path

import pytest
import torch
from accelerate import cpu_offload, disk_offload, dispatch_model, load_checkpoint_and_dispatch
from accelerate.hooks import attach_align_device_hook
from torch import nn
from transformers import AutoModel, AutoModelForImageTextToText

from transformers_groma import GromaForConditionalGeneration, GromaForRegionProposal
from transformers_groma.models.groma.modeling_groma_outputs import GromaImageFeatures
from transformers_groma.models.modeling_region_encoder import GromaRegionEncoder

from .tiny import MASK_DECODER, prompt_ids, tiny_config, tiny_detector, tiny_detector_config, tiny_inputs, tiny_model

CPU = torch.device("cpu")


def build(kind: str) -> nn.Module:
    if kind == "detector":
        return tiny_detector(mask_decoder_config=MASK_DECODER)
    model = tiny_model(mask_decoder_config=MASK_DECODER)
    return model if kind == "whole" else model.model


def inputs_of(kind: str) -> dict[str, torch.Tensor]:
    inputs = tiny_inputs(tiny_config())
    if kind == "detector":
        return {"pixel_values": inputs["pixel_values"]}
    ids = torch.tensor([prompt_ids(tiny_config(), num_boxes=1)] * 2)
    boxes = torch.tensor([[[0.5, 0.5, 0.2, 0.2]], [[0.3, 0.6, 0.2, 0.4]]])
    return {**inputs, "input_ids": ids, "attention_mask": torch.ones_like(ids), "refer_boxes": boxes}


@torch.no_grad()
def results(model: nn.Module, kind: str) -> list[torch.Tensor]:
    """What the model answers by each of its methods."""
    inputs = inputs_of(kind)
    output, proposals = model(**inputs), model.propose_regions(inputs["pixel_values"])
    if kind == "detector":
        masks = results_of_decoder(model, model.get_image_features(inputs["pixel_values"]))
        return [output.pred_boxes, output.logits, proposals.boxes, proposals.scores, *masks]
    features = model.get_image_features(inputs["pixel_values"], inputs["refer_boxes"], return_dict=True)
    given = [output[0], output.region_boxes, proposals.boxes, features.region_boxes, *features.pooler_output]
    given += results_of_decoder(model, features)
    if kind == "whole":
        answer = model.generate(**inputs, max_new_tokens=2, do_sample=False, return_dict_in_generate=True)
        given += [answer.sequences, answer.region_boxes]
    return given


def results_of_decoder(model: nn.Module, features: GromaImageFeatures) -> list[torch.Tensor]:
    """Masks of slots, of boxes and of clicks, and a click's mask corrected."""
    boxes, points = inputs_of("whole")["refer_boxes"], torch.tensor([[[[0.3, 0.3]]], [[[0.5, 0.6]]]])
    clicked = model.resolve_points(features, boxes, points)
    masks = [
        model.segment(features, slots=torch.tensor([[0, 1], [2, -1]])),
        model.segment(features, boxes=boxes, masks=clicked.logits),
        model.segment(features, points=points, multimask=True),
    ]
    return [clicked.boxes, clicked.logits, *(value for given in masks for value in (given.logits, given.quality))]


def assert_equal_results(model: nn.Module, kind: str, expected: list[torch.Tensor]) -> None:
    for one, other in zip(results(model, kind), expected, strict=True):
        assert torch.isfinite(one.float()).all()
        assert torch.equal(one, other)


def modules_with_weights(model: nn.Module, depth: int) -> list[str]:
    """Names of modules at most `depth` levels below the model, as those of a device map."""
    return [
        name
        for name, module in model.named_modules()
        if name and name.count(".") < depth and next(module.parameters(), None) is not None
    ]


KINDS = {"whole": 3, "base": 2, "detector": 2}
# Every part of each model and what it is made of, and the parts alone.
PLACES = [(kind, name) for kind, depth in KINDS.items() for name in modules_with_weights(build(kind), depth)]

PARTS = [(kind, name) for kind, name in PLACES if name.count(".") <= (kind == "whole")]


@pytest.fixture(scope="module")
def built():
    models = {kind: build(kind) for kind in KINDS}
    return {kind: (model, results(model, kind)) for kind, model in models.items()}


@pytest.mark.parametrize(("kind", "name"), PLACES)
def test_one_module_on_disk(built, tmp_path, kind, name):
    model, expected = built[kind]
    device_map = {"": "cpu", name: "disk"}
    model = dispatch_model(copy.deepcopy(model), device_map, main_device="cpu", offload_dir=tmp_path, force_hooks=True)
    offloaded = model.get_submodule(name)
    assert all(weight.device.type == "meta" for weight in offloaded.parameters())
    assert_equal_results(model, kind, expected)


@pytest.mark.parametrize(("kind", "name"), PARTS)
def test_one_module_in_cpu_memory(built, kind, name):
    """As accelerate does for the rest of a model that does not fit on its GPU, with the CPU in the GPU's place."""
    model, expected = built[kind]
    model = copy.deepcopy(model)
    module = model.get_submodule(name)
    attach_align_device_hook(module, execution_device=CPU, offload=True, weights_map=module.state_dict())
    assert all(weight.device.type == "meta" for weight in module.parameters())
    assert_equal_results(model, kind, expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("offload", [cpu_offload, disk_offload])
def test_everything(built, tmp_path, kind, offload):
    model, expected = built[kind]
    options = {} if offload is cpu_offload else {"offload_dir": tmp_path}
    model = offload(copy.deepcopy(model), execution_device=CPU, **options)
    assert all(weight.device.type == "meta" for weight in model.parameters())
    assert_equal_results(model, kind, expected)


@pytest.mark.parametrize("name", [None, "model.vision_tower"])
def test_the_device_of_inputs(built, name):
    """Not that of weights that are elsewhere: what is moved there would be lost."""
    model = copy.deepcopy(built["whole"][0])
    if name is None:
        model = cpu_offload(model, execution_device=CPU)
    else:
        device_map = {"": "cpu", name: "cpu"}
        model = dispatch_model(model, device_map, main_device="cpu", force_hooks=True)
        attach_align_device_hook(model.get_submodule(name), execution_device=CPU, offload=True)
    assert next(model.parameters()).device.type == "meta"
    assert model.device == model.model.device == CPU
    inputs = {key: value[:1].to(model.device) for key, value in inputs_of("whole").items()}
    settings = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    expected = built["whole"][0].generate(**inputs, **settings)
    assert torch.equal(model.generate(**inputs, **settings, prompt_lookup_num_tokens=2), expected)
    assert torch.equal(built["whole"][0].generate(**inputs, **settings, assistant_model=model), expected)


def test_a_model_without_weights_has_no_device():
    with torch.device("meta"):
        model = GromaForRegionProposal(tiny_detector_config())
    assert model.device.type == "meta"


@pytest.fixture(scope="module")
def folders(built, tmp_path_factory) -> dict[str, Path]:
    folders = {kind: tmp_path_factory.mktemp(kind) for kind in KINDS}
    for kind, folder in folders.items():
        built[kind][0].save_pretrained(folder)
    return folders


AUTO_CLASSES = {"whole": AutoModelForImageTextToText, "base": AutoModel, "detector": GromaForRegionProposal}


def device_map_with(model: nn.Module, name: str, device: str) -> dict[str, str]:
    """One module there, all others in CPU memory. `from_pretrained` of no model takes a module beside `""`."""
    device_map, module, path = {name: device}, model, ""
    for component in name.split("."):
        siblings = {f"{path}{other}": "cpu" for other, _ in module.named_children() if other != component}
        device_map, module, path = {**siblings, **device_map}, module.get_submodule(component), f"{path}{component}."
    return device_map


@pytest.mark.parametrize(("kind", "name"), [place for place in PARTS if place[1] != "model"])
def test_loading_with_a_device_map(built, folders, tmp_path, kind, name):
    device_map = device_map_with(built[kind][0], name, "disk")
    model = AUTO_CLASSES[kind].from_pretrained(folders[kind], device_map=device_map, offload_folder=tmp_path).eval()
    assert all(weight.device.type == "meta" for weight in model.get_submodule(name).parameters())
    assert_equal_results(model, kind, built[kind][1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "part", ["vision_tower", "region_proposer", "region_encoder", "mask_decoder", "language_model"]
)
def test_half_precision_offloaded(folders, tmp_path, dtype, part):
    """The same dtypes as without offloading, and a model that can be saved."""
    expected = GromaForConditionalGeneration.from_pretrained(folders["whole"], dtype=dtype)
    device_map = device_map_with(expected, f"model.{part}", "disk")
    model = GromaForConditionalGeneration.from_pretrained(
        folders["whole"], dtype=dtype, device_map=device_map, offload_folder=tmp_path / "offload"
    )
    for name, weight in expected.named_parameters():
        assert model.get_parameter(name).dtype == weight.dtype, name
    assert_equal_results(model, "whole", results(expected, "whole"))
    model.save_pretrained(tmp_path / "saved")
    again = GromaForConditionalGeneration.from_pretrained(tmp_path / "saved")
    assert {name: weight.dtype for name, weight in again.named_parameters()} == {
        name: weight.dtype for name, weight in expected.named_parameters()
    }
    assert_equal_results(again, "whole", results(expected, "whole"))


@pytest.mark.parametrize(
    "device_map", [{"model.language_model": "disk", "lm_head": "disk"}, {"model.language_model.layers": "disk"}]
)
def test_tied_weights(tmp_path, device_map):
    """A head that shares the embedding's weights is on their device."""
    tied = tiny_model(text_config={"tie_word_embeddings": True}, mask_decoder_config=MASK_DECODER)
    tied.save_pretrained(tmp_path / "model")
    for name in list(device_map):
        device_map = {**device_map_with(tied, name, "disk"), **device_map}
    device_map = {name: device for name, device in device_map.items() if name != "model"}
    model = GromaForConditionalGeneration.from_pretrained(
        tmp_path / "model", device_map=device_map, offload_folder=tmp_path / "offload"
    )
    assert_equal_results(model, "whole", results(tied, "whole"))


def test_an_automatic_device_map(built, folders, tmp_path):
    """What does not fit into 400 KB is on disk: half of the model, including single weights of the region proposer."""
    options = {"device_map": "auto", "max_memory": {"cpu": 400_000}, "offload_folder": tmp_path}
    model = GromaForConditionalGeneration.from_pretrained(folders["whole"], **options)
    assert {"cpu", "disk"} == set(model.hf_device_map.values())
    assert_equal_results(model, "whole", built["whole"][1])


def test_load_checkpoint_and_dispatch(built, tmp_path):
    model, expected = built["whole"]
    torch.save(model.state_dict(), tmp_path / "weights.bin")
    device_map = device_map_with(model, "model.region_encoder", "disk")
    model = load_checkpoint_and_dispatch(
        GromaForConditionalGeneration(tiny_config(mask_decoder_config=MASK_DECODER)).eval(),
        str(tmp_path / "weights.bin"),
        device_map=device_map,
        offload_folder=tmp_path / "offload",
        force_hooks=True,
    )
    assert_equal_results(model, "whole", expected)


def test_lora_on_the_region_encoders_convolutions_counts():
    """Their layers are called as wholes, so whatever wraps one takes part."""
    from peft import LoraConfig, get_peft_model

    maps = [torch.randn(1, 32, 4, 4) for _ in range(3)]
    encoder = tiny_model().model.region_encoder
    before = encoder.fuse_feature_maps(maps)
    config = LoraConfig(target_modules=r"input_convs\.\d", init_lora_weights=False)
    after = get_peft_model(copy.deepcopy(encoder), config).base_model.model.fuse_feature_maps(maps)
    assert all(not torch.allclose(one, other) for one, other in zip(before, after, strict=True))


def test_the_input_convolution_sees_coordinates_of_the_enlarged_map():
    """As the original computes it: enlarge, add the coordinates, convolve."""
    encoder: GromaRegionEncoder = tiny_model().model.region_encoder
    encoder.fuse_layers = nn.ModuleList()
    maps = [torch.randn(2, 32, 4, 4) for _ in range(3)]
    for given, small, scale, conv in zip(
        encoder.fuse_feature_maps(maps), maps, (4, 2, 1), encoder.input_convs, strict=True
    ):
        enlarged = nn.functional.interpolate(small, scale_factor=scale, mode="bilinear", align_corners=True)
        steps = torch.linspace(-1, 1, 4 * scale)
        x, y = torch.meshgrid(steps, steps, indexing="xy")
        coordinates = torch.stack([x, y]).expand(2, -1, -1, -1)
        torch.testing.assert_close(given, conv(torch.cat([enlarged, coordinates], dim=1)))
