"""Conversions hold a part of a checkpoint at a time, whatever its size, and write what they wrote at once."""

import json
import weakref

import pytest
import torch
from safetensors.torch import load_file

from transformers_groma import GromaForConditionalGeneration, convert_legacy_checkpoint
from transformers_groma.models import convert_files, convert_saved_tensors
from transformers_groma.models.convert_files import in_parts
from transformers_groma.models.convert_saved_tensors import open_checkpoint

from .groma.damage import refuse, save_bin

PART, SHARD = 300_000, 1_000_000


@pytest.fixture
def held(monkeypatch) -> dict[str, list[int]]:
    """With small limits: the bytes of each read, of what was read before and still lives, and of each written file."""
    sizes = {"read": [], "alive": [], "written": []}
    before: list[weakref.ref] = []
    read, write = convert_files.read_some, convert_saved_tensors.save_file

    def noted_read(path, names):
        sizes["alive"].append(sum(tensor.nbytes for ref in before if (tensor := ref()) is not None))
        tensors = read(path, names)
        sizes["read"].append(sum(tensor.nbytes for tensor in tensors.values()))
        before[:] = [weakref.ref(tensor) for tensor in tensors.values()]
        return tensors

    def noted_write(tensors, *arguments, **options):
        sizes["written"].append(sum(tensor.nbytes for tensor in tensors.values()))
        return write(tensors, *arguments, **options)

    for module in (convert_files, convert_saved_tensors):
        monkeypatch.setattr(module, "read_some", noted_read)
        monkeypatch.setattr(module, "PART_BYTES", PART)
    monkeypatch.setattr(convert_saved_tensors, "save_file", noted_write)
    monkeypatch.setattr(convert_saved_tensors, "MAX_SHARD_SIZE", SHARD)
    return sizes


@pytest.mark.parametrize("as_bin", [False, True])
def test_memory_is_bounded_by_parts_and_shards(held, legacy, legacy_weights, converted_golden, tmp_path, as_bin):
    if as_bin:
        save_bin(legacy, legacy_weights)
    out = convert_legacy_checkpoint(legacy, tmp_path / "out")
    largest = max(tensor.nbytes for tensor in legacy_weights.values())
    total = sum(tensor.nbytes for tensor in legacy_weights.values())
    assert total > 5 * max(PART, largest)  # or the limits say nothing
    assert max(held["read"]) <= max(PART, largest) and max(held["alive"]) == 0
    assert max(held["written"]) <= max(SHARD, largest) and len(held["written"]) > 3
    # Each value is read twice: when it is checked, and when it is written; few more are compared with each other.
    assert sum(held["read"]) < 2.5 * total

    written = {}
    index = json.loads((out / "model.safetensors.index.json").read_text())
    for file in sorted(set(index["weight_map"].values())):
        shard = load_file(out / file)
        assert all(index["weight_map"][name] == file for name in shard)
        written |= shard
    expected = load_file(converted_golden / "model.safetensors")
    assert set(written) == set(expected)
    assert all(torch.equal(written[name], tensor) for name, tensor in expected.items())
    _, report = GromaForConditionalGeneration.from_pretrained(out, output_loading_info=True)
    assert not report["missing_keys"] and index["metadata"]["total_size"] == sum(held["written"])


def test_another_dtype_in_parts(held, legacy, tmp_path):
    out = convert_legacy_checkpoint(legacy, tmp_path / "out", dtype=torch.bfloat16)
    assert max(held["alive"]) == 0 and max(held["written"]) <= SHARD
    files = sorted(out.glob("*.safetensors"))
    assert len(files) > 1 and all(t.dtype == torch.bfloat16 for path in files for t in load_file(path).values())


def test_values_that_a_dtype_cannot_hold(held, legacy, legacy_weights):
    """Found while shards are written; nothing of them stays."""
    name = "llm.model.layers.1.mlp.up_proj.weight"
    save_bin(legacy, {**legacy_weights, name: legacy_weights[name] + 1e6})
    refuse(legacy, "as float16", "model.language_model.layers.1.mlp.up_proj.weight", dtype=torch.float16)


def test_only_what_is_asked_for_is_read(held, golden_dir):
    saved = open_checkpoint(golden_dir / "legacy_checkpoint")
    assert all(tensor.is_meta for tensor in saved.shapes.values())
    held["read"].clear()
    values = saved.read(["llm.model.norm.weight"])
    assert list(values) == ["llm.model.norm.weight"] and held["read"] == [values["llm.model.norm.weight"].nbytes]


def test_parts():
    shapes = {name: torch.zeros(size, device="meta") for name, size in (("a", 5), ("b", 1), ("c", 1), ("d", 1))}
    assert list(in_parts(shapes, 8)) == [["a"], ["b", "c"], ["d"]]
    assert list(in_parts(shapes, 10**9)) == [list(shapes)] and list(in_parts({}, 1)) == []
