"""The folders of hub_configs: their scripts build them, they load, and sizes match the released checkpoints."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageTextToText,
    AutoProcessor,
    CLIPVisionConfig,
    GenerationConfig,
)

from scripts.build_released_configs import build_released_configs
from scripts.groma_tiny.build import build_groma_tiny
from scripts.groma_tiny.card import HEADLINES, STEPS, tiny_card, write_tiny_card
from tests.models.glamm.legacy import released_settings, released_shapes
from tests.tracked_files import tracked_files
from transformers_groma import (
    GlammForConditionalGeneration,
    GromaConfig,
    GromaForConditionalGeneration,
    GromaForRegionProposal,
    GroundedText,
)
from transformers_groma.evaluation.benchmarks.shapes import evaluate_shapes
from transformers_groma.models.glamm.convert_config_glamm import convert_glamm_config
from transformers_groma.models.groma.convert_config import convert_legacy_config
from transformers_groma.models.groma.tokenization_groma import GROMA_CHAT_TEMPLATE, groma_tokens

ROOT = Path(__file__).parents[1]
HUB_CONFIGS = ROOT / "hub_configs"
RELEASED = ("groma-7b", "groma-7b-pretrain", "groma-det-pretrain")
GLAMM = "glamm-fullscope"
ALL = (*RELEASED, "groma-tiny", GLAMM, "glamm-tiny")

# Unique parameters of the original's classes at the released size. Their position table is 37x37, ours is baked to
# 32x32.
ORIGINAL_PARAMETERS = 7_377_311_657
BAKED_POSITIONS = (37 * 37 - 32 * 32) * 1024
DETECTOR_PARAMETERS = 315_746_473  # its perceiver
# Of the released GLaMM without its CLIP: the values in its list of tensors, less those that are no parameters (a table
# of 64 numbers in each of 32 layers, and the fixed code of positions).
GLAMM_PARAMETERS = 7_717_518_640 - 32 * 64 - 2 * 128
GLAMM_REGION_ENCODER = 299_142_912


def num_parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def read(path: Path):
    """What must be equal in a file: JSON without the version that wrote it, or the text."""
    if path.suffix != ".json":
        return path.read_text(encoding="utf-8")
    content = json.loads(path.read_text(encoding="utf-8"))
    content.pop("transformers_version", None)
    return content


def is_of_masks(name: str) -> bool:
    """Whether a weight is one of the mask decoder's."""
    return "mask_decoder" in name.split(".")


def assert_same_files(built: Path, committed: Path):
    names = {path.name for path in committed.iterdir()}
    assert {path.name for path in built.iterdir()} == names
    for name in names - {"model.safetensors"}:
        assert read(built / name) == read(committed / name), f"{name} is stale: run the build script"


@pytest.fixture(scope="module")
def built_tiny(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("hub_configs") / "groma-tiny"
    build_groma_tiny(folder)
    return folder


@pytest.fixture(scope="module")
def tiny():
    folder = HUB_CONFIGS / "groma-tiny"
    return AutoModelForImageTextToText.from_pretrained(folder), AutoProcessor.from_pretrained(folder)


class TestReleased:
    def test_folders_are_what_the_script_builds(self, tmp_path):
        build_released_configs(tmp_path)
        for name in (*RELEASED, GLAMM):
            assert_same_files(tmp_path / name, HUB_CONFIGS / name)

    def test_configs_are_what_the_converter_writes(self, shared_golden):
        state_dict = {}
        for line in (shared_golden / "real_size_keys.txt").read_text().splitlines():
            name, shape = line.split("\t")[:2]
            shape = [int(side) for side in shape.strip("()").split(",") if side.strip()]
            state_dict[name] = torch.empty(shape, device="meta")
        legacy = json.loads((shared_golden / "real_size_config.json").read_text())
        detector = {**legacy["perceiver_cfg"], "model_type": "ddetr"}
        detector_state = {name.removeprefix("perceiver."): tensor for name, tensor in state_dict.items()}
        for name, converted in (
            ("groma-7b", convert_legacy_config(legacy, state_dict)),
            ("groma-7b-pretrain", convert_legacy_config(legacy, state_dict)),
            ("groma-det-pretrain", convert_legacy_config(detector, detector_state)),
        ):
            committed = AutoConfig.from_pretrained(HUB_CONFIGS / name)
            converted.architectures = committed.architectures
            assert converted.to_diff_dict() == committed.to_diff_dict()

    def test_glamm_is_what_the_converter_writes(self):
        golden = ROOT / "tests" / "fixtures" / "golden_glamm"
        clip = CLIPVisionConfig(
            hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, image_size=336,
            patch_size=14, projection_dim=768,
        )  # fmt: skip
        converted = convert_glamm_config(released_settings(golden), released_shapes(golden), clip)
        committed = AutoConfig.from_pretrained(HUB_CONFIGS / GLAMM)
        converted.architectures = committed.architectures
        assert converted.to_diff_dict() == committed.to_diff_dict()
        generation_config = GenerationConfig.from_pretrained(HUB_CONFIGS / GLAMM)
        for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
            assert getattr(generation_config, key) == getattr(committed.text_config, key)
        processor = read(HUB_CONFIGS / GLAMM / "processor_config.json")
        assert (processor["num_image_tokens"], processor["image_token"]) == (committed.num_image_tokens, "<point>")
        with torch.device("meta"):
            model = GlammForConditionalGeneration(committed)
        assert num_parameters(model.model.region_encoder) == GLAMM_REGION_ENCODER
        clip_parameters = num_parameters(model.model.vision_tower)
        assert num_parameters(model) - clip_parameters == GLAMM_PARAMETERS

    @pytest.mark.parametrize("name", ["groma-7b", "groma-7b-pretrain"])
    def test_parameter_count(self, name):
        with torch.device("meta"):
            model = GromaForConditionalGeneration(AutoConfig.from_pretrained(HUB_CONFIGS / name))
        assert num_parameters(model) == ORIGINAL_PARAMETERS - BAKED_POSITIONS
        assert round(num_parameters(model.model.region_encoder) / 1e6, 1) == 288.7
        assert model.model.vision_tower.embeddings.position_embeddings.shape == (1, 1 + 32 * 32, 1024)
        detector_parts = (model.model.vision_tower, model.model.region_proposer)
        assert sum(map(num_parameters, detector_parts)) == DETECTOR_PARAMETERS - BAKED_POSITIONS

    def test_detector_parameter_count(self):
        with torch.device("meta"):
            model = GromaForRegionProposal(AutoConfig.from_pretrained(HUB_CONFIGS / "groma-det-pretrain"))
        assert num_parameters(model) == DETECTOR_PARAMETERS - BAKED_POSITIONS

    @pytest.mark.parametrize("name", ["groma-7b", "groma-7b-pretrain"])
    def test_token_ids_and_prompt(self, name):
        config = AutoConfig.from_pretrained(HUB_CONFIGS / name)
        ids = {token: 32000 + index for index, token in enumerate(groma_tokens())}
        assert config.text_config.vocab_size == 32000 + len(ids)
        assert (config.image_token_id, config.first_proxy_token_id) == (ids["<image>"], ids["<r0>"])
        assert (config.refer_box_token_id, config.ground_box_token_id) == (ids["<refer_box>"], ids["<ground_box>"])
        generation_config = GenerationConfig.from_pretrained(HUB_CONFIGS / name)
        for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
            assert getattr(generation_config, key) == getattr(config.text_config, key)
        assert config.text_config.pad_token_id == ids["[PAD]"]
        processor = read(HUB_CONFIGS / name / "processor_config.json")
        assert (processor["num_image_tokens"], processor["max_regions"]) == (256, 100)
        assert (HUB_CONFIGS / name / "chat_template.jinja").read_text() == GROMA_CHAT_TEMPLATE

    @pytest.mark.parametrize("name", RELEASED)
    def test_geometry_is_the_legacy_one(self, name):
        config = AutoConfig.from_pretrained(HUB_CONFIGS / name)
        assert not config.proposer_config.refine_reference_points
        if isinstance(config, GromaConfig):
            assert config.region_encoder_config.roi_box_format == "cxcywh"
            assert config.region_encoder_config.roi_strides == [1.75, 3.5, 7]


class TestTiny:
    def test_all_but_what_was_trained_is_what_the_script_builds(self, built_tiny):
        committed_folder = HUB_CONFIGS / "groma-tiny"
        committed_names = {path.name for path in committed_folder.iterdir()}
        assert committed_names == {path.name for path in built_tiny.iterdir()} | {"README.md"}
        for name in committed_names - {"README.md", "model.safetensors", "config.json"}:
            assert read(built_tiny / name) == read(committed_folder / name), f"{name} is stale: make train-tiny"
        # The mask decoder comes with its training, by the settings of its recipe.
        config = read(committed_folder / "config.json")
        masks = config.pop("mask_decoder_config", {})
        assert read(built_tiny / "config.json") == config, "config.json is stale: make train-tiny"
        recipe = yaml.safe_load((HUB_CONFIGS / "recipes" / "tiny" / "masks.yaml").read_text(encoding="utf-8"))
        assert {name: recipe["mask_decoder_config"].get(name, value) for name, value in masks.items()} == masks
        # Names of layers in files differ between a model that was made and one that was loaded; both load.
        built, committed = (
            GromaForConditionalGeneration.from_pretrained(folder).state_dict()
            for folder in (built_tiny, committed_folder)
        )
        assert {name: tensor.shape for name, tensor in built.items()} == {
            name: tensor.shape for name, tensor in committed.items() if not is_of_masks(name)
        }
        for name, tensor in load_file(committed_folder / "model.safetensors").items():
            assert tensor.dtype == (torch.float32 if is_of_masks(name) else torch.bfloat16), name

    def test_card_is_what_the_script_writes(self, tmp_path):
        """From the template, the minutes of the training and the metrics in the metadata, which the table repeats."""
        shutil.copytree(HUB_CONFIGS / "groma-tiny", tmp_path / "groma-tiny")
        write_tiny_card(tmp_path / "groma-tiny")
        card = (tmp_path / "groma-tiny" / "README.md").read_text()
        assert card == (HUB_CONFIGS / "groma-tiny" / "README.md").read_text()
        results = {(r.dataset_type, r.metric_type): r.metric_value for r in ModelCard(card).data.eval_results}
        table = card.partition("## What it can do")[2].partition("## How")[0]
        for dataset, metric, meaning in HEADLINES:
            assert f"| {meaning} | {results[dataset, metric]:.3f} |" in table

    def test_card_right_after_a_training(self, tiny):
        """It has no metrics of the model before."""
        card = ModelCard(tiny_card(tiny[0], dict.fromkeys(STEPS, 3)))
        assert card.data.eval_results is None and "Not measured yet" in card.text
        assert card.text.count(" | 3 |") == len(STEPS)

    def test_size(self):
        assert sum(path.stat().st_size for path in (HUB_CONFIGS / "groma-tiny").iterdir()) < 10e6

    def test_answers_on_scenes_that_it_never_saw(self, tiny):
        """A small sample of what the card says, far below it: chance would be about 0.1 and 0.001."""
        model, processor = tiny
        metrics = evaluate_shapes(
            model.eval(),
            processor,
            rows=24,
            seed=7,
            split="validation",
            tasks=["detection", "rec", "region-caption"],
            progress=False,
        )
        assert metrics["detection"]["recall@0.5"] > 0.9
        assert metrics["rec"]["acc@0.5"] > 0.6
        assert metrics["region-caption"]["exact_match"] > 0.6

    def test_ids_are_those_of_the_tokenizer(self, tiny):
        model, processor = tiny
        tokenizer, config = processor.tokenizer, model.config
        assert len(tokenizer) == config.text_config.vocab_size
        proxies = tokenizer.convert_tokens_to_ids([f"<r{index}>" for index in range(config.max_regions)])
        assert proxies == list(range(config.first_proxy_token_id, config.first_proxy_token_id + config.max_regions))
        assert processor.image_token_id == config.image_token_id
        tokens = {"<refer_box>": config.refer_box_token_id, "<ground_box>": config.ground_box_token_id}
        assert tokenizer.convert_tokens_to_ids(list(tokens)) == list(tokens.values())
        for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
            assert getattr(tokenizer, key) == getattr(config.text_config, key) == getattr(model.generation_config, key)

    @pytest.mark.parametrize(
        "text",
        [
            "What is <roi><refer_box></roi><image>? <p>two dogs</p> <roi><r3><r29></roi> here.",
            " <p> spaces </p>  <r0> around<r1>tokens [grounding]Describe",
            "tabs\tand\nlines, ü 漢字 🙂 and <unknown> markup",
        ],
    )
    def test_tokenizer_round_trips(self, text, tiny):
        tokenizer = tiny[1].tokenizer
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text
        ids = tokenizer(text)["input_ids"]
        assert ids[0] == tokenizer.bos_token_id
        assert tokenizer.decode(ids, skip_special_tokens=True) == text

    def test_finds_regions(self, tiny, golden_dir):
        model, processor = tiny
        images = load_file(golden_dir / "case_inputs.safetensors")["images_uint8"]
        inputs = processor.image_processor(list(images), return_tensors="pt")
        proposals = model.propose_regions(inputs["pixel_values"])
        counts = proposals.mask.sum(dim=1)
        assert ((counts >= 1) & (counts <= 30)).all()
        boxes = proposals.boxes[proposals.mask]
        assert (boxes[:, 2:] > 0).all() and (boxes >= 0).all() and (boxes <= 1).all()

    def test_question_with_box(self, tiny, image):
        model, processor = tiny
        box = [64, 48, 256, 240]
        inputs = processor(images=image, text="What is <region>?", boxes=[box], return_tensors="pt")
        limits = {"max_new_tokens": 12, "return_dict_in_generate": True}
        output = model.generate(**inputs, **limits)
        answer = processor.post_process_grounded_generation(output, inputs=inputs, target_sizes=[(480, 640)])[0]
        assert answer.text.startswith("A ") and answer.text.endswith(".")
        assert isinstance(answer, GroundedText)
        torch.testing.assert_close(torch.as_tensor(answer.regions[0].box), torch.tensor(box, dtype=torch.float32))

        messages = [
            {
                "role": "user",
                "content": [
                    {"type": "image", "image": image},
                    {"type": "text", "text": "What is "},
                    {"type": "region", "box": box},
                    {"type": "text", "text": "?"},
                ],
            }
        ]
        chat = processor.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
        assert torch.equal(model.generate(**chat, **limits).sequences, output.sequences)

    def test_batch_is_what_single_calls_give(self, tiny):
        model, processor = tiny
        images = [Image.new("RGB", (300, 200), color) for color in ("red", "green")]
        texts = ["What is <region>?", "[grounding]Please describe the image in detail."]
        boxes = [[[30, 30, 200, 150]], None]
        limits = {"max_new_tokens": 4, "min_new_tokens": 4}
        batch = processor(images=images, text=texts, boxes=boxes, padding=True, return_tensors="pt")
        together = model.generate(**batch, **limits)[:, batch["input_ids"].shape[1] :]
        for index in range(2):
            single = processor(images=images[index], text=texts[index], boxes=boxes[index], return_tensors="pt")
            alone = model.generate(**single, **limits)[:, single["input_ids"].shape[1] :]
            assert torch.equal(together[index], alone[0])


@pytest.mark.parametrize("name", ALL)
def test_auto_classes_load(name):
    folder = HUB_CONFIGS / name
    config = AutoConfig.from_pretrained(folder)
    image_processor = AutoImageProcessor.from_pretrained(folder)
    side = config.vision_config.image_size
    assert (image_processor.size["height"], image_processor.size["width"]) == (side, side)
    pixels = image_processor(Image.new("RGB", (64, 48)), return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 3, side, side)


@pytest.mark.parametrize("name", ALL)
def test_model_card(name):
    card = ModelCard.load(HUB_CONFIGS / name / "README.md")
    assert card.data.library_name == "transformers"
    assert card.data.license and card.data.pipeline_tag and name.partition("-")[0] in card.data.tags
    assert "{" not in card.text.split("```bibtex")[0], "a placeholder was not filled in"
    assert ("random weights" in card.text) == name.endswith("-tiny")


def test_weights_in_git_stay_small():
    files = [path for path in tracked_files(ROOT) if path.suffix in (".safetensors", ".bin")]
    # Golden cases are inputs and outputs, not weights.
    weights = [path for path in files if path.is_file() and not path.name.startswith("case_")]
    for name in ("groma-tiny", "glamm-tiny"):
        assert HUB_CONFIGS / name / "model.safetensors" in weights
    assert sum(path.stat().st_size for path in weights) < 20e6
