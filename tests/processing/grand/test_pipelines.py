"""Steps with real pipelines of transformers, whose models are very small and have random weights."""

import json
from pathlib import Path

import pytest
import torch
import transformers

from processing.grand import depth, detect, extra_context, ground_phrases, images, scene_graph, tags
from processing.grand.depth import read_map
from processing.grand.work_folder import shard_path, write_shard
from transformers_groma.data.write_report import WriteReport

from ..samples import write_jpeg
from .test_asking import graph_row, rows

TINY = Path(__file__).parents[3] / "hub_configs" / "groma-tiny"
SMALL = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.fixture
def folders(tmp_path) -> list[str]:
    """Two photos with their index; 0 is wider than 1."""
    torch.manual_seed(0)
    for number, size in enumerate([(90, 60), (50, 60)]):
        write_jpeg(tmp_path / "photos" / f"{number}.jpg", *size)
    arguments = [str(tmp_path / "photos"), str(tmp_path / "work")]
    assert images.main(arguments) == 0
    return arguments


@pytest.fixture
def tokenizer():
    return transformers.AutoTokenizer.from_pretrained(TINY)


def saved(folder: Path, *parts) -> str:
    for part in parts:
        part.save_pretrained(folder)
    return str(folder)


def test_depth_estimation(folders, tmp_path):
    backbone = transformers.Dinov2Config(
        **{name: value for name, value in SMALL.items() if name != "intermediate_size"} | {"num_hidden_layers": 4},
        image_size=28,
        patch_size=14,
        out_indices=[1, 2, 3, 4],
        reshape_hidden_states=False,
    )
    config = transformers.DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=16,
        neck_hidden_sizes=[8, 8, 8, 8],
        fusion_hidden_size=8,
        head_hidden_size=8,
    )
    processor = transformers.DPTImageProcessor(
        size={"height": 28, "width": 28}, ensure_multiple_of=14, keep_aspect_ratio=True
    )
    model = saved(tmp_path / "model", transformers.DepthAnythingForDepthEstimation(config), processor)
    assert depth.main([*folders, "--model", model]) == 0
    found = rows(folders, "depth")
    assert read_map(found["0"]).shape == (60, 90) and read_map(found["1"]).shape == (60, 50)
    assert found["0"]["low"] < found["0"]["high"]


def test_zero_shot_object_detection(folders, tmp_path, tokenizer):
    text = SMALL | {"vocab_size": len(tokenizer), "max_position_embeddings": 16, "pad_token_id": 0}
    config = transformers.OwlViTConfig(
        text_config=text, vision_config=SMALL | {"image_size": 32, "patch_size": 16}, projection_dim=16
    )
    square = {"height": 32, "width": 32}
    processor = transformers.OwlViTImageProcessor(size=square, crop_size=square)
    model = saved(tmp_path / "model", transformers.OwlViTForObjectDetection(config), processor, tokenizer)
    options = ["--model", model, "--labels", "dog", "cat", "--min-score", "0", "--nms", "1"]
    assert detect.main([*folders, "--name", "owl", *options]) == 0
    found = rows(folders, "detect.owl")["1"]["detections"]
    assert found and {each["label"] for each in found} <= {"dog", "cat"}
    for each in found:
        x1, y1, x2, y2 = each["bbox"]
        assert 0 <= x1 < x2 <= 50 and 0 <= y1 < y2 <= 60 and 0 < each["score"] < 1


def test_text_generation(folders, tmp_path, tokenizer):
    config = transformers.LlamaConfig(**SMALL, vocab_size=len(tokenizer), max_position_embeddings=4096)
    model = saved(tmp_path / "model", transformers.LlamaForCausalLM(config), tokenizer)
    graphs = [graph_row("0", ["dog"]), graph_row("1", ["cat", "ball"])]
    path = shard_path(Path(folders[1]), "scene_graph", 0, 1)
    write_shard(path, graphs, scene_graph.FEATURES, WriteReport(), {})
    # Its words are random, but not tokens of a model: answers with those are left out.
    call = {
        "max_new_tokens": 8,
        "suppress_tokens": sorted({*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}),
    }
    assert extra_context.main([*folders, "--model", model, "--call", json.dumps(call)]) == 0
    texts = [row["context"] for row in rows(folders, "extra_context").values()]
    prompt = (extra_context.PROMPTS / "context.md").read_text()
    assert len(texts) == 2 and not any(prompt[:40] in text for text in texts)


def test_image_text_to_text(folders, capsys):
    status = tags.main([*folders, "--model", str(TINY), "--call", '{"max_new_tokens": 4}'])
    # groma-tiny was not trained on this question: it answers with regions, which are not tags.
    assert status == 1 and "holds a token of a model (2)" in capsys.readouterr().err


@pytest.mark.slow
def test_groma_finds_phrases(tmp_path):
    from processing.grand.captions import FEATURES
    from transformers_groma.shapes.scenes import make_scene

    scene = make_scene(seed=0, split="test", index=3)
    (tmp_path / "photos").mkdir()
    scene.draw().save(tmp_path / "photos" / "0.png")
    folders = [str(tmp_path / "photos"), str(tmp_path / "work")]
    assert images.main(folders) == 0
    caption = {"image_id": "0", "caption": "The image shows a large red star.", "phrases": [], "made_from": "x"}
    write_shard(shard_path(tmp_path / "work", "captions.a", 0, 1), [caption], FEATURES, WriteReport(), {})
    assert ground_phrases.main([*folders, "--task", "image-grounding", "--model", str(TINY)]) == 0
    ((phrase,),) = [row["phrases"] for row in rows(folders, "ground_phrases").values()]
    assert phrase["phrase"] == "a large red star" and len(phrase["boxes"]) == 1
