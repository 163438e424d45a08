"""What can break on a device: run on the CPU here, on a GPU by `benchmarks/gpu/run.sh` (`GROMA_TEST_DEVICE=cuda`)."""

import copy
import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch.testing import assert_close

from tests.golden import check_greedy_generation, golden_pixels
from tests.tiny import tiny_inputs, tiny_model
from transformers_groma import GromaForConditionalGeneration

DEVICE = os.environ.get("GROMA_TEST_DEVICE", "cpu")
on_gpu = pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU")


@pytest.fixture(scope="module")
def golden_model(converted_golden) -> GromaForConditionalGeneration:
    return GromaForConditionalGeneration.from_pretrained(converted_golden).eval().to(DEVICE)


@pytest.fixture(scope="module")
def model() -> GromaForConditionalGeneration:
    return tiny_model().to(DEVICE)


@pytest.fixture
def inputs(model) -> dict[str, torch.Tensor]:
    return {key: value.to(DEVICE) for key, value in tiny_inputs(model.config, batch_size=3).items()}


def generate(model, inputs, **kwargs) -> torch.Tensor:
    ids = model.generate(**inputs, do_sample=False, min_new_tokens=6, max_new_tokens=6, **kwargs)
    return ids[:, inputs["input_ids"].shape[1] :].cpu()


@contextmanager
def tf32(convolutions: bool, products: bool) -> Iterator[None]:
    """Whether a GPU computes float32 convolutions and matrix products in TF32; torch's defaults are yes and no."""
    backends = torch.backends.cudnn, torch.backends.cuda.matmul
    before = [backend.allow_tf32 for backend in backends]
    for backend, allowed in zip(backends, (convolutions, products), strict=True):
        backend.allow_tf32 = allowed
    try:
        yield
    finally:
        for backend, allowed in zip(backends, before, strict=True):
            backend.allow_tf32 = allowed


@pytest.fixture
def true_float32() -> Iterator[None]:
    """What is compared with numbers of a CPU."""
    with tf32(convolutions=False, products=False):
        yield


@pytest.mark.usefixtures("true_float32")
@pytest.mark.parametrize("run", ["plain", "refer"])
def test_words_are_those_of_the_original(golden_model, golden_dir, run):
    check_greedy_generation(golden_model, golden_dir, run, atol=2e-3)


@pytest.mark.usefixtures("true_float32")
def test_proposals_equal_those_of_the_cpu(golden_model, golden_dir):
    pixels = golden_pixels(golden_dir)
    found = golden_model.propose_regions(pixels.to(DEVICE))
    expected = copy.deepcopy(golden_model).cpu().propose_regions(pixels)
    assert torch.equal(found.mask.cpu(), expected.mask) and expected.mask.any()
    assert_close(found.boxes.cpu(), expected.boxes, atol=1e-4, rtol=0)
    assert_close(found.scores.cpu(), expected.scores, atol=1e-4, rtol=0)


@on_gpu
def test_only_tf32_differs_from_the_cpu(golden_model, golden_dir):
    """Prints, for docs/loading.md, how far image features and boxes are from the CPU's."""
    pixels = golden_pixels(golden_dir)

    def perceive(model, pixels) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.inference_mode():
            return model.model.vision_tower(pixels).last_hidden_state.cpu(), model.propose_regions(pixels).boxes.cpu()

    features, boxes = perceive(copy.deepcopy(golden_model).cpu(), pixels)
    differences = {}
    for name, switches in {"none": (False, False), "convolutions": (True, False), "both": (True, True)}.items():
        with tf32(*switches):
            found, found_boxes = perceive(golden_model, pixels.to(DEVICE))
        differences[name] = (found - features).abs().max().item()
        # Each box to the nearest one: their order may differ.
        moved = torch.cdist(found_boxes, boxes, p=torch.inf).min(-1).values.max().item()
        print(f"TF32 in {name}: features differ by up to {differences[name]:.2g}, boxes by up to {moved:.2g}")
    print(f"largest feature: {features.abs().max():.3g}")
    assert differences["none"] < min(1e-3, differences["both"])


def test_a_batch_equals_single_calls(model, inputs):
    batch = generate(model, inputs)
    for row in range(3):
        single = generate(model, {key: value[row : row + 1] for key, value in inputs.items()})
        assert torch.equal(single[0], batch[row])


def test_bfloat16_picks_the_same_regions(model, inputs, tmp_path):
    model.save_pretrained(tmp_path)
    half = GromaForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.bfloat16).eval().to(DEVICE)
    assert half.lm_head.weight.dtype == torch.bfloat16
    found = half.propose_regions(inputs["pixel_values"])
    expected = model.propose_regions(inputs["pixel_values"])
    assert torch.equal(found.mask, expected.mask)
    assert_close(found.boxes, expected.boxes, atol=1e-6, rtol=0)
    assert generate(half, inputs).shape == (3, 6)


def test_static_cache(model, inputs):
    assert torch.equal(
        generate(model, inputs, cache_implementation="static", disable_compile=True), generate(model, inputs)
    )


def test_compile_perceive(model, inputs):
    compiled = torch.compile(model.get_image_features)
    with torch.no_grad():
        found = compiled(inputs["pixel_values"], return_dict=True)
        expected = model.get_image_features(inputs["pixel_values"], return_dict=True)
    assert torch.equal(found.region_mask, expected.region_mask)
    assert_close(
        torch.stack(list(found.pooler_output)), torch.stack(list(expected.pooler_output)), atol=1e-3, rtol=1e-3
    )


def test_compile_a_decoding_step(model, inputs):
    """A static cache makes `generate` compile the decoding step on a GPU."""
    assert torch.equal(generate(model, inputs, cache_implementation="static"), generate(model, inputs))


@pytest.mark.parametrize(
    "part", ["model.vision_tower", "model.region_proposer", "model.region_encoder", "model.language_model"]
)
def test_a_part_offloaded_to_the_cpu(model, inputs, part):
    accelerate = pytest.importorskip("accelerate")
    expected = generate(model, inputs)
    offloaded = copy.deepcopy(model)
    accelerate.cpu_offload(offloaded.get_submodule(part), execution_device=torch.device(DEVICE))
    assert torch.equal(generate(offloaded, inputs), expected)


@on_gpu
@pytest.mark.parametrize("part", ["region_proposer", "region_encoder", "language_model"])
def test_a_device_map_over_cpu_and_gpu(model, inputs, part, tmp_path):
    pytest.importorskip("accelerate")
    model.save_pretrained(tmp_path)
    split = GromaForConditionalGeneration.from_pretrained(
        tmp_path, device_map={"": DEVICE, f"model.{part}": "cpu"}
    ).eval()
    assert torch.equal(generate(split, inputs), generate(model, inputs))


@pytest.mark.parametrize("bits", [4, 8])
def test_bitsandbytes_quantizes_the_language_model_only(model, inputs, tmp_path, bits):
    pytest.importorskip("bitsandbytes")
    from transformers import BitsAndBytesConfig

    wide = tiny_model(text_config={"hidden_size": 64, "intermediate_size": 128}).to(DEVICE)
    wide.save_pretrained(tmp_path)
    quantized = GromaForConditionalGeneration.from_pretrained(
        tmp_path, quantization_config=BitsAndBytesConfig(**{f"load_in_{bits}bit": True}), device_map=DEVICE
    ).eval()
    found, expected = (m.propose_regions(inputs["pixel_values"]) for m in (quantized, wide))
    assert torch.equal(found.mask, expected.mask)
    assert_close(found.boxes, expected.boxes, atol=1e-4, rtol=0)
    assert generate(quantized, inputs).shape == (3, 6)


def test_training_step(inputs):
    model = tiny_model().to(DEVICE).train()
    outputs = model(**inputs, labels=inputs["input_ids"])
    outputs.loss.backward()
    assert outputs.loss.isfinite()
    assert model.model.language_model.embed_tokens.weight.grad.isfinite().all()


@pytest.mark.parametrize("name", ["referring-segmentation", "interactive-segmentation", "detection"])
def test_benchmarks_of_masks(name, tmp_path):
    """Features, prompts and masks of before are on the device, clicks and masks of the upright image are not."""
    for package in ("datasets", "faster_coco_eval", "matplotlib", "pycocoevalcap", "trl"):
        pytest.importorskip(package)
    from tests.training.rows import training_model, training_processor
    from transformers_groma.evaluation.loading import load_benchmark
    from transformers_groma.evaluation.runner import evaluate
    from transformers_groma.shapes.rows import shapes_dataset

    task = "rec" if name == "referring-segmentation" else "detection"
    rows = shapes_dataset(task, 2, 0, split="test", image_size=112, evaluation=task == "rec")
    model = training_model(masks=True).to(DEVICE)
    results = evaluate(load_benchmark(name), model, training_processor(), rows, tmp_path, progress=False)
    assert results.settings["device"] == DEVICE and results.complete
    assert {"ciou", "miou@5", "mask_ap"} & set(results.metrics)
