"""Saving and loading keeps every part's dtype."""

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors import safe_open
from transformers import AutoModel, AutoModelForImageTextToText, Trainer, TrainingArguments

from transformers_groma import GromaForConditionalGeneration, GromaForRegionProposal, GromaModel
from transformers_groma.models.groma.modeling_groma_base import PARTS
from transformers_groma.models.modeling_parts import part_dtypes

from ...tiny import MASK_DECODER, tiny_detector_config, tiny_inputs, tiny_model

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
    saved = model.state_dict()
    fixed = [buffer for name, buffer in model.named_buffers() if name in saved]
    weights = sum(weight.numel() * weight.element_size() for weight in (*model.parameters(), *fixed))
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
    tiny_model(mask_decoder_config=MASK_DECODER).save_pretrained(tmp_path)
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
    assert part_dtypes(weights, PARTS) == {
        "language_model": torch.bfloat16,
        "region_encoder": torch.float16,
        "model": torch.bfloat16,
    }
    weights = {"vision_tower.bias": torch.zeros(1), "region_proposer.bias": torch.zeros(2).half()}
    assert part_dtypes(weights, PARTS)["model"] == torch.float16
    assert part_dtypes({}, PARTS) == {}
