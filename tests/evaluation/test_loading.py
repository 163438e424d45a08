"""Benchmarks, datasets and models by name."""

import itertools

import pytest

from transformers_groma.evaluation.loading import (
    BENCHMARKS,
    PROTOCOLS,
    load_benchmark,
    load_benchmark_rows,
    load_model,
    load_published_rows,
)
from transformers_groma.loading_options import LoadingOptions

from .samples import rec_dataset


def test_benchmarks_have_the_names_of_the_command():
    assert list(BENCHMARKS) == [
        *("rec", "lvis-ground", "region-caption", "grounded-caption", "detection"),
        *("referring-segmentation", "grounded-conversation", "phrase-grounding", "interactive-segmentation"),
        "llava-bench",
    ]
    assert all(load_benchmark(name).name == name for name in BENCHMARKS)
    with pytest.raises(ValueError, match="There is no benchmark 'coco'. Use one of rec, lvis-ground"):
        load_benchmark("coco")


def test_protocols():
    assert list(PROTOCOLS) == [
        *itertools.product(
            ("grounded-conversation", "referring-segmentation", "region-caption"), ("glamm-release", "glamm-paper")
        ),
        ("phrase-grounding", "given-caption"),
    ]
    for (name, protocol), benchmark in PROTOCOLS.items():
        found = load_benchmark(name, protocol)
        assert found is benchmark and (found.name, found.protocol) == (name, protocol)
        usual = load_benchmark(name)
        assert usual.protocol is None and usual.title != found.title and usual.schemas == found.schemas
    with pytest.raises(ValueError, match="rec has no protocol 'glamm-release'. There is 'glamm-release' of grounded"):
        load_benchmark("rec", "glamm-release")
    with pytest.raises(ValueError, match="has no protocol 'coco'. It has 'glamm-release' and 'glamm-paper'; leave"):
        load_benchmark("region-caption", "coco")
    with pytest.raises(ValueError, match="There is no benchmark 'coco'"):
        load_benchmark("coco", "glamm-release")


def test_a_dataset_has_one_split(tmp_path):
    """It is named in one place, or it is "test"."""
    for split, count in (("test", 1), ("val", 2)):
        rec_dataset(count).to_parquet(tmp_path / f"{split}-00000-of-00001.parquet")
    for spec, split, expected in (
        (tmp_path, None, (1, "test")),
        (f"{tmp_path}@val", None, (2, "val")),
        (tmp_path, "val", (2, "val")),
        (f"{tmp_path}@val", "val", (2, "val")),
    ):
        rows = load_benchmark_rows(spec, split)
        assert (len(rows.dataset), rows.split) == expected and rows.name == str(tmp_path)
    with pytest.raises(ValueError, match="names the split 'val' and `split` is 'test'"):
        load_benchmark_rows(f"{tmp_path}@val", "test")
    with pytest.raises(ValueError, match="has a ratio, which is for training"):
        load_benchmark_rows(f"{tmp_path}:0.5")


@pytest.mark.parametrize("name", load_benchmark("llava-bench").published_files)
def test_published_files_are_read_with_their_benchmark(tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(ValueError, match=r"has the published files of LLaVA-Bench \(COCO\). Use llava-bench"):
        load_benchmark_rows(tmp_path)
    with pytest.raises(ValueError, match="rec has no published files of its own"):
        load_published_rows(load_benchmark("rec"), tmp_path, tmp_path)
    with pytest.raises(ValueError, match="The published files have no splits, got 'test'"):
        load_published_rows(load_benchmark("llava-bench"), tmp_path, tmp_path, "test")


def test_thresholds_replace_those_of_the_model(tiny_dir):
    model, processor = load_model(tiny_dir, options=LoadingOptions(dtype="float32"))
    assert not model.training and processor.image_processor is not None
    own = (model.config.box_score_threshold, model.config.nms_threshold)
    changed, _ = load_model(tiny_dir, box_score_threshold=0.0)
    assert (changed.config.box_score_threshold, changed.config.nms_threshold) == (0.0, own[1])
    changed, _ = load_model(tiny_dir, nms_threshold=0.011)
    assert (changed.config.box_score_threshold, changed.config.nms_threshold) == (own[0], 0.011)
