"""docs/grand.md: its example runs, its configurations are right, its numbers are those of the code."""

import json
from pathlib import Path

import pytest
import yaml

from processing import grand_dataset
from processing.grand import dense_caption, objects, relations
from processing.grand.__main__ import STEPS, build_parser, check_plan, main, plan
from processing.grand.agreement import AGREEMENT_IOU, NMS_IOU, SCORE_THRESHOLD
from processing.grand.job import step_parser
from processing.grand.scene import layers_of, scene_text

from ...run_document import commands, read_blocks
from ..samples import real_sample

REPOSITORY = Path(__file__).parents[3]
PAGE = REPOSITORY / "docs" / "grand.md"
TEXT = PAGE.read_text(encoding="utf-8")
BLOCKS = read_blocks(PAGE)
CONFIGS = [block.text for block in BLOCKS if block.language == "yaml"]


@pytest.mark.parametrize("config", CONFIGS)
def test_configurations_are_right(config):
    args = build_parser().parse_args(["photos", "data/grand", "--config", "grand.yaml"])
    steps = plan(yaml.safe_load(config), args.config)
    check_plan(steps, args)
    assert {name for name, _ in steps} >= {
        "images",
        "detect",
        "objects",
        "relations",
        "scene_graph",
        "masks",
        "export",
    }


def test_the_page_names_every_step_in_its_order():
    table = TEXT.split("| step | level |")[1].split("\n\n")[0].splitlines()[2:]
    assert [line.split("`")[1] for line in table] == list(STEPS)


def test_thresholds_are_those_of_the_code():
    merging = step_parser(objects.STEP, None).parse_args(["a", "b"])
    assert merging.agreement == AGREEMENT_IOU == 0.65 and "of at least .65 are one object" in TEXT
    assert (SCORE_THRESHOLD, NMS_IOU) == (0.1, 0.9) and "a score up to .1 go" in TEXT and "IoU above .9" in TEXT
    assert relations.MATCH_IOU == 0.75 and "with an IoU of at least .75" in TEXT
    writing = step_parser(dense_caption.STEP, None).parse_args(["a", "b", "--model", "m"])
    assert writing.rounds == 3 and "2 to 6 by default" in TEXT


def test_the_characters_of_the_cost_are_those_of_a_real_image():
    (image,) = json.loads((real_sample("grand") / "sa_302406.json").read_text()).values()
    things = image["objects"]
    layers = layers_of([each["median_depth"] for each in things])
    told = [
        {**each, "label": each["labels"][0], "attributes": each["attributes"] or [], "layer": layer}
        for each, layer in zip(things, layers, strict=True)
    ]
    relations_of_image = image["relationships"]["grounding"]
    text = scene_text(told, image["captions"], relations_of_image, image["landmark"], (2250, 1500))
    prompts = [
        (dense_caption.PROMPTS / name).read_text().strip().format(scene_graph=text)
        for name in ("caption.md", "context.md")
    ]
    assert f"with {len(things)} objects, has {len(text):,} characters" in TEXT
    assert f"the prompt of its dense caption {len(prompts[0]):,}" in TEXT
    assert [round(len(prompt) / 40) * 10 for prompt in prompts] == [640, 610]


@pytest.mark.slow
def test_the_example_annotates_what_is_there(tmp_path, monkeypatch):
    """groma-tiny on its shapes: each object that it finds is described as one that is there, and most have masks."""
    from transformers_groma.shapes.scenes import make_scene

    monkeypatch.chdir(tmp_path)
    (tmp_path / "hub_configs").symlink_to(REPOSITORY / "hub_configs")
    drawings = next(block.text for block in BLOCKS if block.language == "python")
    exec(compile(drawings, str(PAGE), "exec"), {"__name__": "page"})
    Path("grand.yaml").write_text(CONFIGS[0])
    shell = [words for block in BLOCKS if block.language == "bash" for words in commands(block.text)]
    annotate = next(words for words in shell if "--config" in words)
    assert main(annotate[3:]) == 0
    for number in (0, 3):
        scene = make_scene(seed=0, split="test", index=number)
        (annotation,) = json.loads(Path(f"data/grand/annotations/{number}.json").read_text()).values()
        found = annotation["objects"]
        shapes = {each.attributes.shape for each in scene.objects}
        described = [set(each["attributes"][0].split()) & shapes for each in found]
        assert len(found) >= 3 and sum(map(bool, described)) >= 0.8 * len(found)
        assert sum("segmentation" in each for each in found) >= 0.5 * len(found)
        (caption,) = annotation["short_captions"]
        assert caption["details"] and annotation["relationships"]["grounding"]
    make_rows = next(words for words in shell if words[2] == "processing.grand_dataset")
    assert grand_dataset.main(make_rows[3:]) == 0
