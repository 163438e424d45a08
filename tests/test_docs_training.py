"""The training documents: the files, options and datasets they name exist, and their commands parse."""

import importlib
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from trl import TrlParser

from transformers_groma import cli
from transformers_groma.cli.train import TRAINING_STAGES
from transformers_groma.data.mixtures import parse_weighted_spec
from transformers_groma.training.glamm_data import DATASET_TYPES
from transformers_groma.training.glamm_parts import DEFAULT_PARTS
from transformers_groma.training.trainer import GromaLossMixin

from .run_document import blocks, commands

REPOSITORY = Path(__file__).parents[1]
TRAINING = REPOSITORY / "docs" / "training.md"
DOCUMENTS = [TRAINING, REPOSITORY / "docs" / "finetune.md"]
PAPER_STAGES = ("detection", "alignment", "sft")
RECIPES = {stage: REPOSITORY / "hub_configs" / "recipes" / f"{stage}.yaml" for stage in (*PAPER_STAGES, "masks")}
# The recipe that the document shows of each.
SHOWN_RECIPES = {**RECIPES, "glamm": REPOSITORY / "hub_configs" / "recipes" / "glamm" / "gcg.yaml"}
PROCESSES = 8


class _Parsed(Exception):
    """A script has read its command line; it need not go on."""


def shell_commands(document: Path) -> list[list[str]]:
    return [words for language, text in blocks(document) if language == "bash" for words in commands(text)]


def stage_parser(stage: str, monkeypatch) -> TrlParser:
    """The parser of a training stage, built of the dataclasses that its `main` reads."""
    module = importlib.import_module(f"transformers_groma.training.{stage.replace('-', '_')}")

    def parse(dataclasses, argv, prog, description):
        raise _Parsed(dataclasses)

    monkeypatch.setattr(module, "parse_arguments", parse)
    with pytest.raises(_Parsed) as parsed:
        module.main([])
    return TrlParser(parsed.value.args[0])


def parse_stage(stage: str, argv: list[str], monkeypatch) -> SimpleNamespace:
    """The arguments of a stage as parsed; `--config` is read by the caller."""
    if "--config" in argv:
        position = argv.index("--config")
        argv = argv[:position] + argv[position + 2 :]
    parsed, unknown = stage_parser(stage, monkeypatch).parse_known_args(argv)
    assert not unknown, f"{stage} has no {unknown}"
    return parsed


def parse_processing(words: list[str], monkeypatch) -> SimpleNamespace:
    """The arguments of `python -m processing.NAME …` as parsed."""
    module = importlib.import_module(words[2])

    def run_script(args, *_, **__):
        raise _Parsed(args)

    # Scripts of one layout share their `main`: wherever it is, it calls this.
    for name, loaded in list(sys.modules.items()):
        if name.startswith("processing.") and "run_script" in vars(loaded):
            monkeypatch.setattr(loaded, "run_script", run_script)
    with pytest.raises(_Parsed) as parsed:
        module.main(words[3:])
    return parsed.value.args[0]


def option_names(monkeypatch) -> set[str]:
    """Every option of the stages, of `groma` and of `accelerate launch`."""
    parsers = [stage_parser(stage, monkeypatch) for stage in TRAINING_STAGES]
    parsers += [launch_command_parser(), cli.build_parser()]
    names = {"--config"}
    while parsers:
        parser = parsers.pop()
        for action in parser._actions:
            names |= set(action.option_strings)
            if isinstance(action.choices, dict):  # of subcommands: their parsers
                parsers += action.choices.values()
    return names


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_files_that_are_named_exist(document):
    text = document.read_text(encoding="utf-8")
    names = re.findall(r"\b(?:hub_configs|src|processing|docs)/[\w./-]*\w", text)
    links = [name.partition("#")[0] for name in re.findall(r"\]\(([^)]+)\)", text) if "://" not in name]
    assert names and links
    for path in [*(REPOSITORY / name for name in names), *(document.parent / link for link in links)]:
        assert path.exists(), path


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_options_that_are_named_exist(document, monkeypatch):
    known = option_names(monkeypatch)
    known |= {
        "--task",
        "--images",
        "--annotations",
        "--image-data",
        "--wording",
        "--among-others",
        "--rounds",
        "--labels",
        "--classes",
        "--shards",
        "--shard",
        "--source",
        "--limit",
    }  # of processing
    known |= {"--logdir", "--local-dir"}  # of tensorboard and hf download
    named = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", document.read_text(encoding="utf-8")))
    assert len(named) > 20
    assert named <= known, sorted(named - known)


def test_commands_parse(monkeypatch):
    seen = []
    for words in shell_commands(TRAINING):
        seen.append(" ".join(words[:2]))
        if words[:2] == ["accelerate", "launch"]:
            launch = launch_command_parser().parse_args([word.replace("$RANK", "1") for word in words[2:]])
            assert launch.module
            if launch.config_file is not None:
                load_config_from_file(str(REPOSITORY / launch.config_file))
            package, _, stage = launch.training_script.rpartition(".")
            assert package == "transformers_groma.training"
            arguments = launch.training_script_args
            assert Path(arguments[arguments.index("--config") + 1]) == SHOWN_RECIPES[stage].relative_to(REPOSITORY)
            parsed = parse_stage(stage, arguments, monkeypatch)
            assert parsed.model_name_or_path and parsed.output_dir
        elif words[:2] == ["groma", "train"]:
            parse_stage(words[2], words[3:], monkeypatch)
        elif words[0] == "groma":
            cli.build_parser().parse_args(words[1:])
        else:
            assert words[:2] == ["python", "-m"] and words[2].startswith("processing.")
            parse_processing(words, monkeypatch)
    assert seen.count("accelerate launch") == 6 and "groma convert" in seen and "groma train" in seen


@pytest.mark.slow
def test_what_can_be_tried_at_once(tmp_path, monkeypatch, capsys):
    """The first block of commands trains all stages, as printed, on a machine without a GPU."""
    for name in ("hub_configs", "docs"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    monkeypatch.chdir(tmp_path)
    first = next(text for language, text in blocks(TRAINING) if language == "bash")
    lines = commands(first)
    assert [words[1:3] for words in lines if words[1] == "train"] == [["train", stage] for stage in RECIPES]
    for words in lines:
        assert words[0] == "groma" and "--use_cpu" not in words
        assert cli.main(words[1:]) == 0, words
    output = capsys.readouterr()
    assert output.out.endswith("A small striped black star.\n")
    assert "checked 32 rows: none of them would stop training" in output.err


def test_every_dataset_of_the_recipes_has_a_command(monkeypatch):
    made = set()
    for words in shell_commands(TRAINING):
        if words[0] == "python":
            args = parse_processing(words, monkeypatch)
            made.add((str(args.output), args.split))
    for path in RECIPES.values():
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
        named = {(spec.partition(":")[0], "train") for spec in recipe["train_datasets"]}
        named |= {(spec.partition(":")[0], "validation") for spec in recipe.get("eval_datasets", ())}
        assert named <= made, sorted(named - made)
    for path in SHOWN_RECIPES["glamm"].parent.glob("*.yaml"):
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
        typed = [spec for name in DATASET_TYPES for spec in recipe.get(f"{name}_datasets", ())]
        named = {parse_weighted_spec(spec)[:2] for spec in typed}
        named |= {parse_weighted_spec(spec, "validation")[:2] for spec in recipe.get("eval_datasets", ())}
        assert typed and named <= made, sorted(named - made)


@pytest.mark.parametrize(
    ("name", "steps"),
    [("pretrain", 35000), ("gcg", 5000), ("refseg", 1750), ("region-caption", 2500), ("combined", 5000)],
)
def test_recipes_of_glamm(name, steps, monkeypatch):
    """Every value is an option, and learning rate, batch and steps are the released ones."""
    path = SHOWN_RECIPES["glamm"].with_name(f"{name}.yaml")
    recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    arguments = []
    for option, value in recipe.items():
        arguments += [f"--{option}", *map(str, value if isinstance(value, list) else [value])]
    parsed = parse_stage("glamm", [*arguments, "--output_dir", "output"], monkeypatch)
    assert (parsed.max_steps, parsed.learning_rate, parsed.adam_beta2) == (steps, 3e-4, 0.95)
    assert PROCESSES * parsed.per_device_train_batch_size * parsed.gradient_accumulation_steps == 160
    assert (parsed.use_peft, parsed.lora_r, parsed.lora_alpha, parsed.lora_dropout) == (True, 8, 16, 0.05)
    assert parsed.trainable_parts == DEFAULT_PARTS and (parsed.max_questions, parsed.max_regions) == (3, 10)


@pytest.mark.parametrize("path", sorted((REPOSITORY / "hub_configs" / "accelerate").glob("*.yaml")), ids=str)
def test_configurations_of_accelerate_load(path):
    assert load_config_from_file(str(path)).num_processes == PROCESSES


def test_batches_are_those_of_the_paper():
    text = " ".join(TRAINING.read_text(encoding="utf-8").split())
    batches = [
        PROCESSES * yaml.safe_load(RECIPES[stage].read_text(encoding="utf-8"))["per_device_train_batch_size"]
        for stage in PAPER_STAGES
    ]
    assert batches == [64, 128, 128] and f"({', '.join(map(str, batches))}) with {PROCESSES}" in text
    [several] = [words for words in shell_commands(TRAINING) if "--num_machines" in words]
    processes, per_device = (
        int(several[several.index(name) + 1]) for name in ("--num_processes", "--per_device_train_batch_size")
    )
    assert processes * per_device == batches[-1]


@pytest.mark.parametrize(("is_last", "wanted"), [(True, "FULL_STATE_DICT"), (False, "SHARDED_STATE_DICT")])
def test_a_sharded_training_ends_with_a_whole_model(is_last, wanted):
    """`Trainer` writes no weights at all at the end of a training whose checkpoints are sharded."""
    plugin = SimpleNamespace(state_dict_type="SHARDED_STATE_DICT")
    plugin.set_state_dict_type = lambda kind: setattr(plugin, "state_dict_type", kind)

    class Base:
        is_fsdp_enabled = True
        accelerator = SimpleNamespace(state=SimpleNamespace(fsdp_plugin=plugin))

        def save_model(self, output_dir, _internal_call):
            self.saved = output_dir, plugin.state_dict_type

    trainer = type("Trained", (GromaLossMixin, Base), {})
    trainer = object.__new__(trainer)
    trainer.save_model("output/sft", _internal_call=not is_last)
    assert trainer.saved == ("output/sft", wanted)
