"""Exported graphs see what the model sees, in onnxruntime and OpenVINO, and answers through them are the same."""

import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from tests.tiny import MASK_DECODER, tiny_model
from tests.tiny_checkpoint import save_tiny_checkpoint, save_tiny_glamm
from transformers_groma.cli import main
from transformers_groma.deploy import perception_export, perception_runtime
from transformers_groma.deploy.graph_notes import NOTE_FILE, note_of
from transformers_groma.deploy.perception_export import check_format, export_perception
from transformers_groma.deploy.perception_runtime import PerceptionRuntime, perceive_with
from transformers_groma.image_inputs import ImageSize
from transformers_groma.loading import load_model
from transformers_groma.perceived_images import perceive_inputs
from transformers_groma.pipeline import ImageGroundingPipeline
from transformers_groma.shapes.scenes import make_scene

GROMA_TINY = "hub_configs/groma-tiny"
GLAMM_TINY = "hub_configs/glamm-tiny"
FIELDS = ("region_boxes", "region_scores", "proposal_boxes", "proposal_scores")


def need(*packages: str) -> None:
    for package in packages:
        pytest.importorskip(package)


def pictures(count: int) -> list[Image.Image]:
    """Noise, drawn scenes and a flat image, of several sizes."""
    noise = np.random.default_rng(0).integers(0, 255, (90, 140, 3), dtype=np.uint8)
    scenes = [make_scene(0, "test", number, 224).draw() for number in range(count)]
    return [Image.fromarray(noise), Image.new("RGB", (50, 300), "gray"), *scenes][:count]


def assert_same_features(model, processor, runtime: PerceptionRuntime, images: list[Image.Image]) -> int:
    """The features of images are those of the model; returns how many regions there are."""
    inputs = dict(processor.image_processor(images, return_tensors="pt"))
    with torch.no_grad():
        expected = model.get_image_features(**inputs, return_dict=True)
    given = runtime.get_image_features(**inputs)
    assert type(given) is type(expected) and torch.equal(given.region_mask, expected.region_mask)
    for name in FIELDS:
        if getattr(expected, name, None) is not None:
            torch.testing.assert_close(getattr(given, name), getattr(expected, name), rtol=0, atol=1e-5)
    maps = [*expected.region_feature_maps, *(getattr(expected, "mask_feature_maps", None) or ())]
    ours = [*given.region_feature_maps, *(getattr(given, "mask_feature_maps", None) or ())]
    for one, other in zip([*ours, *given.pooler_output], [*maps, *expected.pooler_output], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)
    return int(expected.region_mask.sum())


@pytest.fixture(scope="module")
def parts(golden_dir, tmp_path_factory):
    """A very small model with a mask decoder, its processor, and its folder."""
    folder = save_tiny_checkpoint(tmp_path_factory.mktemp("model"), golden_dir, mask_decoder_config=MASK_DECODER)
    return (*load_model(folder, "cpu"), folder)


@pytest.fixture(scope="module")
def exported(parts, tmp_path_factory):
    need("onnx", "onnxscript", "onnxruntime")
    return export_perception(parts[2], tmp_path_factory.mktemp("eyes") / "onnx")


def test_a_graph_names_no_folder_of_this_machine(exported):
    for path in exported.iterdir():
        content = path.read_bytes()
        for place in (Path(torch.__file__).parent, Path(perception_export.__file__).parent, Path.cwd()):
            assert str(place).encode() not in content, path.name
        assert b".py" not in content or not path.name.startswith("perception"), path.name


def test_any_number_of_images(parts, exported):
    model, processor, _ = parts
    runtime = PerceptionRuntime(exported, num_threads=1)
    assert all(assert_same_features(model, processor, runtime, pictures(count)) > count for count in (1, 2, 5))


def test_no_region_and_as_many_as_there_are_slots(parts, exported):
    """What is not a number never takes part; and random proposals fill all slots of some image."""
    model, processor, _ = parts
    runtime = PerceptionRuntime(exported)
    pixels = torch.full(
        (1, 3, model.config.vision_config.image_size, model.config.vision_config.image_size), torch.nan
    )
    assert not runtime.get_image_features(pixels).region_mask.any()
    assert not model.get_image_features(pixels, return_dict=True).region_mask.any()
    inputs = processor.image_processor(pictures(5), return_tensors="pt")
    assert runtime.get_image_features(**inputs).region_mask.sum(dim=1).max() == model.config.max_regions


def test_answers_through_the_graph_are_the_same(parts, exported):
    """Questions, boxes and masks: all that asks the model for features of images gets those of the graph."""
    model, processor, folder = parts
    seeing, _ = load_model(folder, "cpu")
    runtime = PerceptionRuntime(exported)
    calls = []
    look = runtime.get_image_features
    runtime.get_image_features = lambda *args, **kwargs: calls.append(1) or look(*args, **kwargs)
    perceive_with(seeing, runtime)
    image = pictures(1)[0]
    for question, boxes in (("What is this?", None), ("What is <region>?", [[10, 10, 80, 60]])):
        answers = [
            ImageGroundingPipeline(model=one, processor=processor, task="image-grounding")(
                image, question, boxes=boxes, masks=True, max_new_tokens=8
            )
            for one in (model, seeing)
        ]
        assert answers[0].markup == answers[1].markup
        for one, other in zip(*(answer.regions for answer in answers), strict=True):
            torch.testing.assert_close(torch.as_tensor(one.box), torch.as_tensor(other.box), rtol=0, atol=1e-2)
    assert len(calls) == 2


def test_graphs_of_another_model_are_refused(parts, exported, tmp_path):
    model, _, folder = parts
    runtime = PerceptionRuntime(exported)
    other, _ = load_model(folder, "cpu")
    other.config.nms_threshold = 0.123
    with pytest.raises(
        ValueError, match=r"exported from another model: `nms_threshold` is 0\.6 there and 0\.123 here"
    ):
        perceive_with(other, runtime)
    other.config.nms_threshold = model.config.nms_threshold
    with torch.no_grad():
        next(other.model.vision_tower.parameters()).add_(1)
    with pytest.raises(ValueError, match="exported from another model: `vision_sha256` is"):
        perceive_with(other, runtime)
    assert note_of(model) == runtime.note
    with pytest.raises(FileNotFoundError, match="has no perception.json: pass a folder that"):
        PerceptionRuntime(tmp_path)
    with pytest.raises(ValueError, match=r"`pixel_values` must have shape"):
        runtime.get_image_features(torch.zeros(1, 3, 8, 8))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (
            "perception.onnx",
            b"<html>",
            r"/perception.onnx' or perception.onnx.data beside it is damaged, .*export the",
        ),
        ("perception.onnx.data", b"", r"/perception.onnx' or perception.onnx.data beside it is damaged, .*export the"),
        ("perception.onnx", None, "has neither perception.onnx nor perception.xml: export the graph again"),
        ("config.json", b"{", r"config.json is not JSON .*Export the graph again"),
        ("config.json", None, "has no config.json: export the graph again"),
    ],
)
def test_a_damaged_file_is_named(exported, tmp_path, capfd, name, content, words):
    eyes = tmp_path / "eyes"
    shutil.copytree(exported, eyes)
    if content is None:
        (eyes / name).unlink()
    else:
        (eyes / name).write_bytes(content)
    with pytest.raises((ValueError, FileNotFoundError), match=words) as error:
        PerceptionRuntime(eyes)
    assert "\n" not in str(error.value)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("name", ["perception.xml", "perception.bin"])
def test_a_damaged_file_of_openvino_is_named(exported, tmp_path, name):
    openvino = pytest.importorskip("openvino")
    ones = openvino.opset13.constant([1.0] * 1000)
    openvino.save_model(openvino.Model([openvino.opset13.relu(ones)], []), tmp_path / "perception.xml")
    for file in ("config.json", NOTE_FILE):
        shutil.copy(exported / file, tmp_path)
    PerceptionRuntime(tmp_path)
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(ValueError, match="/perception.xml' or perception.bin beside it is damaged, .*export the"):
        PerceptionRuntime(tmp_path)


def test_graphs_are_asked_where_maps_should_be_kept_for_later_regions(monkeypatch):
    """As a chat does. Graphs have none, and the model must not look in their place."""
    model = tiny_model()
    look, calls = model.get_image_features, []
    runtime = SimpleNamespace(
        note={}, get_image_features=lambda pixels: calls.append(len(pixels)) or look(pixels, return_dict=True)
    )
    monkeypatch.setattr(perception_runtime, "check_same_model", lambda note, model: None)
    perceive_with(model, runtime)
    inputs = {"pixel_values": torch.randn(2, 3, 56, 56)}
    seen = perceive_inputs(model, inputs, [ImageSize(50, 40)] * 2, keep_fused_maps=True)
    assert calls == [2] and seen[0].features.fused_region_maps is None


def test_missing_packages_and_other_formats(monkeypatch, exported):
    with pytest.raises(ValueError, match="`format` must be one of 'onnx', 'openvino', got 'tflite'"):
        check_format("tflite")
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ValueError, match=r"`format='openvino'` needs the package openvino: pip install \"transf"):
        check_format("openvino")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ValueError, match=r"needs the package onnxruntime: pip install \"transformers-groma\[export\]"):
        PerceptionRuntime(exported)


def test_the_command_exports_the_revision_that_is_named(monkeypatch, tmp_path, capsys):
    need("onnx", "onnxscript", "onnxruntime")
    found = []
    monkeypatch.setattr(
        "transformers_groma.cli.model_exports.checked_model", lambda model, *_, revision, argument: model
    )
    monkeypatch.setattr(perception_export, "export_perception", lambda *arguments: found.append(arguments))
    assert main(["export-perception", "org/groma", str(tmp_path / "eyes"), "--revision", "v1.0"]) == 0
    assert found == [("org/groma", tmp_path / "eyes", "onnx", False, "v1.0")]
    monkeypatch.undo()
    assert main(["export-perception", GROMA_TINY, str(tmp_path / "eyes"), "--revision", "v1.0"]) == 2
    assert "is a folder: leave it out" in capsys.readouterr().err


def test_an_existing_folder_is_kept(parts, exported):
    with pytest.raises(FileExistsError):
        export_perception(parts[2], exported)
    assert perception_export.FORMATS == ("onnx", "openvino")


@pytest.mark.slow
def test_openvino(parts, tmp_path):
    need("onnx", "onnxscript", "openvino")
    model, processor, folder = parts
    eyes = export_perception(folder, tmp_path / "eyes", "openvino")
    assert not list(eyes.glob("*.onnx*")) and (eyes / "perception.bin").is_file()
    runtime = PerceptionRuntime(eyes, num_threads=1)
    assert all(assert_same_features(model, processor, runtime, pictures(count)) > count for count in (1, 2, 5))


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_a_glamm(tmp_path, format):
    """It has image tokens and the embedding that masks are decoded from; it proposes no regions."""
    need("onnx", "onnxscript", "onnxruntime", "openvino")
    folder = save_tiny_glamm(tmp_path / "model")
    model, processor = load_model(folder, "cpu")
    runtime = PerceptionRuntime(export_perception(folder, tmp_path / "eyes", format), num_threads=1)
    for count in (1, 3):
        assert assert_same_features(model, processor, runtime, pictures(count)) == 0
    inputs = dict(processor.image_processor(pictures(2), return_tensors="pt"))
    expected = model.mask_embedding(model.get_image_features(**inputs, return_dict=True)).image
    given = torch.stack([view.embedding for view in runtime.get_image_features(**inputs).grounding])
    torch.testing.assert_close(given, expected, rtol=1e-3, atol=1e-3)
    seeing, _ = load_model(folder, "cpu")
    perceive_with(seeing, runtime)
    answers = [
        ImageGroundingPipeline(model=one, processor=processor, task="image-grounding")(
            pictures(1)[0], "What is <region>?", boxes=[[10, 10, 80, 60]], max_new_tokens=8
        )
        for one in (model, seeing)
    ]
    assert answers[0].markup == answers[1].markup


@pytest.mark.slow
@pytest.mark.parametrize(("name", "format"), [(GROMA_TINY, "onnx"), (GROMA_TINY, "openvino"), (GLAMM_TINY, "onnx")])
def test_trained_models_answer_the_same(tmp_path, name, format):
    need("onnx", "onnxscript", "onnxruntime", "openvino")
    model, processor = load_model(name, "cpu")
    seeing, _ = load_model(name, "cpu")
    runtime = PerceptionRuntime(export_perception(name, tmp_path / "eyes", format))
    perceive_with(seeing, runtime)
    images = [make_scene(0, "test", number, 448).draw() for number in range(4)]
    asked, through = (
        ImageGroundingPipeline(model=one, processor=processor, task="image-grounding").caption(images)
        for one in (model, seeing)
    )
    assert [answer.markup for answer in asked] == [answer.markup for answer in through]
