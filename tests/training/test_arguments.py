"""Command lines, YAML files, and the shipped recipes."""

import importlib
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from transformers import TrainingArguments
from trl import ModelConfig, SFTConfig

from transformers_groma.data.mixtures import parse_dataset_spec, parse_weighted_spec
from transformers_groma.models.groma.configuration_groma import GromaMaskDecoderConfig
from transformers_groma.training.alignment import ALIGNMENT_PARTS, AlignmentArguments
from transformers_groma.training.arguments import DatasetArguments, load_datasets, loading, parse_arguments
from transformers_groma.training.conversation_stage import ConversationArguments, choose_parts
from transformers_groma.training.detection import DetectionArguments, DetectionTrainingArguments
from transformers_groma.training.glamm import GlammArguments, GlammModelConfig, GromaSFTConfig
from transformers_groma.training.mask_trainer import MaskTrainingArguments
from transformers_groma.training.masks import MaskArguments
from transformers_groma.training.sft import SFT_PARTS

from .rows import write_conversations

RECIPES = Path(__file__).parents[2] / "hub_configs" / "recipes"
DATACLASSES = {
    "detection": (DetectionArguments, DetectionTrainingArguments),
    "alignment": (AlignmentArguments, TrainingArguments),
    "sft": (ConversationArguments, SFTConfig, ModelConfig),
    "masks": (MaskArguments, MaskTrainingArguments),
    "language": (ConversationArguments, SFTConfig, ModelConfig),
}


@dataclass
class OtherArguments:
    rate: float = field(default=0.5)
    steps: int = field(default=1)
    fast: bool = field(default=False)


def parse(*argv: str) -> tuple[DatasetArguments, OtherArguments]:
    return parse_arguments((DatasetArguments, OtherArguments), argv, "groma train test", "A test.")


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("train_datasets: [data/a, 'data/b:0.5']\nrate: 1e-4\nsteps: 7\nfast: true\n")
    return path


def test_command_line_alone():
    data, other = parse("--train_datasets", "a", "b@x:0.1", "--eval-datasets", "c", "--steps", "3")
    assert data == DatasetArguments(train_datasets=["a", "b@x:0.1"], eval_datasets=["c"])
    assert other == OtherArguments(steps=3)
    assert parse() == (DatasetArguments(), OtherArguments())


@pytest.mark.parametrize("stage", DATACLASSES)
def test_a_token_is_refused_and_not_printed(stage, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("hub_token: hf_secret\n")
    for given in (["--hub_token", "hf_secret"], ["--config", str(path)]):
        given += ["--output_dir", str(tmp_path / "output"), "--use_cpu", "true"]
        with pytest.raises(ValueError, match="`hub_token` would be written.*hf auth login") as error:
            parse_arguments(DATACLASSES[stage], given, "groma train test", "A test.")
        assert "hf_secret" not in str(error.value)


@pytest.mark.parametrize("stage", ["detection", "alignment", "sft"])
def test_a_token_given_from_python_is_refused_before_any_work(stage, tmp_path):
    """Before a model is loaded: there is none."""
    module = importlib.import_module(f"transformers_groma.training.{stage}")
    script, training, *others = DATACLASSES[stage]
    arguments = [
        script(model_name_or_path="none") if stage == "alignment" else script(),
        training(output_dir=str(tmp_path), use_cpu=True, hub_token="hf_secret"),
        *(other(model_name_or_path="none") for other in others),
    ]
    with pytest.raises(ValueError, match="`hub_token` would be written") as error:
        module.train(*arguments)
    assert "hf_secret" not in str(error.value)


@pytest.mark.parametrize("given", [["--config", "{}"], ["--config={}"]])
def test_file_with_overrides(config, given):
    given = [text.format(config) for text in given]
    data, other = parse(*given)
    assert data == DatasetArguments(train_datasets=["data/a", "data/b:0.5"])
    assert other == OtherArguments(rate=1e-4, steps=7, fast=True)
    data, other = parse(*given, "--train_datasets", "mine", "--rate", "0.1", "--fast", "false")
    assert data == DatasetArguments(train_datasets=["mine"])
    assert other == OtherArguments(rate=0.1, steps=7, fast=False)
    # The order does not matter.
    assert parse("--rate", "0.1", *given)[1].rate == 0.1


@pytest.mark.parametrize(
    ("yaml", "expected"), [("data/a", ["data/a"]), ("[data/a]", ["data/a"]), ("", []), ("[]", []), ("null", [])]
)
def test_one_dataset_needs_no_brackets(tmp_path, yaml, expected):
    (tmp_path / "config.yaml").write_text(f"train_datasets: {yaml}\neval_datasets: {yaml}\n")
    data, _ = parse("--config", str(tmp_path / "config.yaml"))
    assert data.train_datasets == data.eval_datasets == expected


def test_one_part_needs_no_brackets():
    assert ConversationArguments(trainable_parts="projector").trainable_parts == ["projector"]


def test_unknown_names_are_errors(config, capsys):
    config.write_text("train_dataset: data/a\n")
    with pytest.raises(ValueError, match="Unknown arguments from config file: .*train_dataset"):
        parse("--config", str(config))
    with pytest.raises(SystemExit, match="2"):
        parse("--learning_rat", "1")
    message = capsys.readouterr().err
    assert "unrecognized arguments: --learning_rat 1 (see " in message and len(message.splitlines()) == 1


@pytest.mark.parametrize("kind", [OSError, ValueError])
def test_errors_of_loading_name_argument_and_value(kind):
    """The library's own error about a missing model offline names neither."""
    with pytest.raises(kind, match=r"^--detector 'no/where': Nothing found\.$"), loading("detector", "no/where"):
        raise kind("Nothing found.")


def test_values_of_a_wrong_kind_are_errors(config, capsys):
    config.write_text("steps: many\n")
    with pytest.raises(SystemExit):
        parse("--config", str(config))
    assert "--steps: invalid int value: 'many'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "argv", [["--config"], ["--config", "missing.yaml"], ["--config=missing.yaml"], ["--config", "."]]
)
def test_missing_file(argv, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ValueError, match=r"^--config (missing.yaml |\. | )?is not a file. Name a YAML file, such as those in hub_"
    ):
        parse(*argv)


def test_a_file_without_names(config):
    config.write_text("- data/a\n")
    with pytest.raises(ValueError, match="must contain a YAML mapping"):
        parse("--config", str(config))


def test_help_names_the_program(capsys):
    with pytest.raises(SystemExit):
        parse("--help")
    output = capsys.readouterr().out
    assert "usage: groma train test" in output
    assert "A test." in output
    assert "PATH[@SPLIT][:RATIO] for each dataset of the mixture." in output


def parse_recipe(path: Path, *overrides: str):
    argv = ["--config", str(path), "--output_dir", "output", "--use_cpu", *overrides]
    return parse_arguments(DATACLASSES[path.stem], argv, path.stem, "")


ALL_RECIPES = sorted(str(path.relative_to(RECIPES)) for path in RECIPES.rglob("*.yaml"))


@pytest.mark.parametrize("name", [name for name in ALL_RECIPES if name.startswith("glamm")])
def test_recipes_of_glamm_are_understood(name):
    """Each says what it learns from, by type, and no step is of a type without data."""
    argv = ["--config", str(RECIPES / name), "--output_dir", "output", "--use_cpu", "--bf16", "false"]
    script_args, training_args, _ = parse_arguments((GlammArguments, GromaSFTConfig, GlammModelConfig), argv, name, "")
    datasets = [*script_args.caption_datasets, *script_args.region_datasets, *script_args.segmentation_datasets]
    assert datasets and all(parse_weighted_spec(spec) for spec in datasets)
    assert training_args.save_steps > 0 and training_args.max_steps > 0


@pytest.mark.parametrize("name", [name for name in ALL_RECIPES if not name.startswith("glamm")])
def test_recipes_are_understood(name):
    script_args, training_args = parse_recipe(RECIPES / name)[:2]
    for spec in [*script_args.train_datasets, *script_args.eval_datasets]:
        parse_dataset_spec(spec)
    assert script_args.train_datasets
    assert training_args.report_to == ["tensorboard"]
    assert training_args.save_steps > 0
    if isinstance(script_args, ConversationArguments):
        choose_parts(script_args, SFT_PARTS, training_args.weight_decay)
    # Everything can be overridden behind the file.
    assert parse_recipe(RECIPES / name, "--learning_rate", "0.125")[1].learning_rate == 0.125


# Table 10 of the paper and the released scripts: what all three stages share, and what each has.
SHARED = {"lr_scheduler_type": "cosine", "bf16": True, "max_grad_norm": 1.0, "optim": "adamw_torch_fused"}
PAPER = {
    "detection": {
        "learning_rate": 2e-4,
        "weight_decay": 1e-4,
        "num_train_epochs": 12,
        "warmup_steps": 100,
        "vision_lr_scale": 0.1,
        "offset_lr_scale": 0.1,
        "augmentation": "recipe",
    },
    "alignment": {"learning_rate": 1e-4, "weight_decay": 0, "num_train_epochs": 2, "warmup_steps": 0.03},
    "sft": {
        "learning_rate": 1e-5,
        "weight_decay": 0,
        "num_train_epochs": 1,
        "warmup_steps": 0.03,
        "activation_checkpointing": True,
    },
}
BATCH = {"detection": 64, "alignment": 128, "sft": 128}
RATIOS = {
    "detection": {},
    "alignment": {"data/visual_genome": 0.2, "data/grit": 0.1},
    "sft": {"data/sharegpt4v": 0.23, "data/coco-grounding": 0.5},
}


@pytest.mark.parametrize("stage", PAPER)
def test_recipes_of_the_paper(stage):
    path = RECIPES / f"{stage}.yaml"
    script_args, training_args = parse_recipe(path)[:2]
    for name, expected in {**SHARED, **PAPER[stage]}.items():
        assert getattr(training_args, name) == expected, name
    # 8 processes, as the head of the file says.
    assert (
        f"Batch of {BATCH[stage]}: 8 processes with {training_args.per_device_train_batch_size} " in path.read_text()
    )
    batch = 8 * training_args.per_device_train_batch_size * training_args.gradient_accumulation_steps
    assert batch == BATCH[stage]
    specs = [parse_dataset_spec(spec) for spec in script_args.train_datasets]
    assert {spec.path: spec.ratio for spec in specs if spec.ratio != 1} == RATIOS[stage]
    if stage != "detection":
        assert script_args.max_tokens == 2048
        assert training_args.get_warmup_steps(1000) == 30


def test_recipe_of_the_mask_decoder():
    """It has no model in the paper; settings that a YAML file nests arrive as they are."""
    path = RECIPES / "masks.yaml"
    script_args, training_args = parse_recipe(path)
    assert f"Batch of 64: 8 processes with {training_args.per_device_train_batch_size} " in path.read_text()
    assert GromaMaskDecoderConfig(**script_args.mask_decoder_config).hidden_size == 256
    script_args = parse_recipe(path, "--mask_decoder_config", '{"hidden_size": 64}')[0]
    assert script_args.mask_decoder_config == {"hidden_size": 64}
    for bad in ("{hidden_size: 64", "64", "[64]"):
        with pytest.raises(ValueError, match="`mask_decoder_config`"):
            MaskArguments(mask_decoder_config=bad)


def test_trained_parts_of_the_paper():
    arguments = parse_recipe(RECIPES / "alignment.yaml")[0]
    choose_parts(arguments, ALIGNMENT_PARTS, 0.0)
    assert arguments.trainable_parts == ["region_encoder", "projector", "new_tokens"]
    arguments = parse_recipe(RECIPES / "sft.yaml")[0]
    choose_parts(arguments, SFT_PARTS, 0.0)
    assert arguments.trainable_parts == ["region_encoder", "projector", "language_model"]


def test_new_tokens_and_weight_decay():
    arguments = ConversationArguments(trainable_parts=["projector", "new_tokens"])
    with pytest.raises(ValueError, match="`weight_decay` is 0.01, but would decay the old rows .* Set it to 0."):
        choose_parts(arguments, SFT_PARTS, 0.01)
    choose_parts(arguments, SFT_PARTS, 0.0)
    choose_parts(ConversationArguments(trainable_parts=["language_model"]), ALIGNMENT_PARTS, 0.01)
    with pytest.raises(ValueError, match="Unknown part 'nose'"):
        choose_parts(ConversationArguments(trainable_parts=["nose"]), SFT_PARTS, 0.0)


@pytest.mark.parametrize("option", ["train_datasets", "eval_datasets"])
def test_a_dataset_that_is_missing_is_named_with_its_option(option, tmp_path):
    rows = tmp_path / "rows"
    write_conversations(rows, 1)
    arguments = DatasetArguments(train_datasets=[str(rows)])
    setattr(arguments, option, [str(tmp_path / "missing")])
    with pytest.raises(FileNotFoundError, match=f"^--{option}: .*missing"):
        load_datasets(arguments, "conversation")
