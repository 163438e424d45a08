"""docs/evaluation.md: the files it names exist, its commands parse, its metrics are the benchmarks'."""

import importlib
import json
import re
import shutil
import subprocess
from dataclasses import asdict
from pathlib import Path

import pytest
from accelerate.commands.launch import launch_command_parser

from transformers_groma import cli
from transformers_groma._files import write_file
from transformers_groma._jsonl import write_jsonl
from transformers_groma.evaluation.benchmarks.detection import RECALL_CURVE
from transformers_groma.evaluation.loading import BENCHMARKS, PROTOCOLS, load_benchmark, load_benchmark_rows
from transformers_groma.evaluation.predictions import Prediction
from transformers_groma.evaluation.reports.report import RESULTS_NAME, Results
from transformers_groma.regions import Regions
from transformers_groma.shapes.rows import ShapesOptions, write_shapes

from .run_document import blocks
from .test_docs_training import parse_processing

REPOSITORY = Path(__file__).parents[1]
DOCUMENT = REPOSITORY / "docs" / "evaluation.md"
TEXT = DOCUMENT.read_text(encoding="utf-8")
SOURCE_URL = "https://github.com/transformers-groma/transformers-groma/blob/main/"
PROGRAMS = ("python", "groma", "accelerate", "make")
# Sections by benchmark.
SECTIONS = {
    "rec": "Referring expressions (REC)",
    "lvis-ground": "LVIS-Ground",
    "region-caption": "Region captions",
    "grounded-caption": "Grounded captions",
    "detection": "Region proposals",
    "referring-segmentation": "Referring segmentation",
    "grounded-conversation": "Grounded conversations (GCG)",
    "phrase-grounding": "Phrase grounding",
    "interactive-segmentation": "Interactive segmentation",
    "llava-bench": "LLaVA-Bench (COCO)",
}
EVERY_PROTOCOL = [*BENCHMARKS.values(), *PROTOCOLS.values()]
# An ablation, which `results.md` alone quotes.
NOT_QUOTED = ("GLaMM without the 1K human captions",)


@pytest.fixture(scope="module")
def shell_commands() -> list[list[str]]:
    """The words of every command, as the shell reads them: loops are run, programs are not."""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("the commands are read by bash, which is not here")
    functions = "\n".join(f'{name}() {{ printf "%s\\0" {name} "$@"; printf "\\n\\0"; }}' for name in PROGRAMS)
    script = "\n".join([functions, *(text for language, text in blocks(DOCUMENT) if language == "bash")])
    # With no programs to be found, another command is an error.
    read = subprocess.run([bash, "-euc", script], env={"PATH": ""}, capture_output=True, text=True, check=False)
    assert read.returncode == 0 and not read.stderr, read.stderr
    return [words.split("\0")[:-1] for words in read.stdout.split("\n\0")[:-1]]


def section(title: str) -> str:
    found = re.split(r"^## ", TEXT, flags=re.MULTILINE)
    [text] = [part for part in found if part.startswith(f"{title}\n")]
    return text


def test_files_and_links_exist():
    text = TEXT.replace(SOURCE_URL, "../")  # files outside docs/
    without_urls = re.sub(r"https?://[^\s)]+", "", text)
    names = re.findall(r"\b(?:hub_configs|src|processing|docs|metrics)/[\w./-]*\w", without_urls)
    links = [name for name in re.findall(r"\]\(([^)]+)\)", text) if "://" not in name]
    assert len(names) > 8 and len(links) >= 8
    for name in names:
        assert (REPOSITORY / name).exists(), name
    for link in links:
        path, _, anchor = link.partition("#")
        target = DOCUMENT.parent / path if path else DOCUMENT
        assert target.exists(), link
        if anchor:
            titles = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), flags=re.MULTILINE)
            assert anchor in [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles], link


def test_commands_parse(shell_commands, monkeypatch):
    seen = []
    for words in shell_commands:
        if words[:2] == ["accelerate", "launch"]:
            launch = launch_command_parser().parse_args(words[2:])
            assert launch.module and launch.training_script == "transformers_groma.cli"
            words = ["groma", *launch.training_script_args]
        if words[0] == "groma":
            parsed = cli.build_parser().parse_args(words[1:])
            seen.append(" ".join(words[1:3]))
            assert parsed.output
        elif words[0] == "python":
            assert words[1] == "-m" and words[2].startswith("processing.")
            parse_processing(words, monkeypatch)
            seen.append(words[2])
        else:
            assert words[0] == "make"
    assert {f"evaluate {name}" for name in (*cli.evaluate.BENCHMARKS, "zero-shot")} <= set(seen)
    assert seen.count("processing.refcoco") == 18 and seen.count("evaluate rec") == 12


def test_targets_of_make_exist(shell_commands):
    targets = [target for words in shell_commands if words[0] == "make" for target in words[1:]]
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    assert targets == ["evaluate-tiny"]
    assert re.search(r"^evaluate-tiny:", makefile, flags=re.MULTILINE)


def test_options_that_are_named_exist(monkeypatch):
    known = {"--model_args", "--tasks", "--batch_size", "--num_processes"}  # of lmms-eval and accelerate
    parsers = [cli.build_parser()]
    # Of scripts the parser is made when they run: they are asked for it.
    script_parser = importlib.import_module("processing.common").script_parser
    for name in ("coco", "refcoco", "visual_genome", "flickr30k", "lvis_ground", "glamm_gcg"):
        module = importlib.import_module(f"processing.{name}")

        def keep(*args, **kwargs):
            parsers.append(script_parser(*args, **kwargs))
            return parsers[-1]

        monkeypatch.setattr(module, "script_parser", keep)
        with pytest.raises(SystemExit):
            module.main(["--no-such-option"])
    while parsers:
        parser = parsers.pop()
        parsers += getattr(parser, "parsers_of_words", {}).values()
        for action in parser._actions:
            known |= set(action.option_strings)
            if isinstance(action.choices, dict):  # of subcommands: their parsers
                parsers += action.choices.values()
    named = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", TEXT))
    assert len(named) > 25
    assert named <= known, sorted(named - known)


def test_datasets_are_made_before_they_are_asked_for(shell_commands, monkeypatch):
    """Every `--dataset` of local rows has a command that makes its folder and split."""
    made, asked = set(), []
    for words in shell_commands:
        if words[0] == "python":
            args = parse_processing(words, monkeypatch)
            made.add((str(args.output), args.split))
        elif words[:2] == ["groma", "data"]:
            args = cli.build_parser().parse_args(words[1:])
            made.add((str(args.output), args.split))
        elif words[:2] == ["groma", "evaluate"]:
            args = cli.build_parser().parse_args(words[1:])
            path, _, split = args.dataset.partition("@")
            if args.benchmark not in ("llava-bench", "zero-shot"):  # these read the files of others
                asked.append((args.benchmark, path, split or args.split or "test"))
    assert len(asked) >= 18
    assert {(path, split) for _, path, split in asked} <= made


def test_published_metrics_are_found_by_the_datasets(shell_commands, monkeypatch):
    """`results.md` finds the paper's metric by the column `source` and the split: the commands must write these."""
    made = set()
    for words in shell_commands:
        if words[0] == "python":
            args = parse_processing(words, monkeypatch)
            made.add((getattr(args, "source", "coco"), args.split))
    in_rows_of_ours = [benchmark for benchmark in EVERY_PROTOCOL if not benchmark.published_files]
    for benchmark in in_rows_of_ours:
        for entry in benchmark.published:
            assert any(source == entry.dataset and entry.split in ("", split) for source, split in made), entry


@pytest.mark.parametrize("name", SECTIONS)
def test_every_metric_is_defined(name):
    text = section(SECTIONS[name])
    named = set(re.findall(r"`([\w@.]+)`", text))
    wanted = {metric.name for metric in load_benchmark(name).metrics}
    if name == "lvis-ground":
        prefixes = ("lvis_eval_", "any_", "merged_")
        assert set(prefixes) <= named
        wanted = {metric.removeprefix(prefix) for metric in wanted for prefix in prefixes if metric.startswith(prefix)}
    if name == "detection":
        assert f"{', '.join(map(str, RECALL_CURVE))} |" in text and "`queries_`" in text
        wanted = {re.sub(r"^ar@\d+$", "ar@N", metric.removeprefix("queries_")) for metric in wanted}
    assert wanted <= named, sorted(wanted - named)
    # And no metric is there that the benchmark has not.
    first_cells = set(re.findall(r"`([^`]+)`", "".join(re.findall(r"^\| (`[^|]*) \|", text, flags=re.MULTILINE))))
    assert first_cells <= wanted | {"lvis_eval_", "any_", "merged_"}, sorted(first_cells - wanted)


@pytest.mark.parametrize(
    "benchmark", EVERY_PROTOCOL, ids=lambda benchmark: f"{benchmark.name}-{benchmark.protocol or 'usual'}"
)
def test_metrics_of_the_paper(benchmark):
    text = section(SECTIONS[benchmark.name])
    assert benchmark.protocol is None or f"--protocol {benchmark.protocol}" in text
    is_share = {metric.name: metric.is_share for metric in benchmark.metrics}
    for entry in benchmark.published:
        if entry.model in NOT_QUOTED:
            continue
        value = 100 * entry.value if is_share[entry.metric] else entry.value
        assert re.search(rf"\b{f'{value:.2f}'.rstrip('0').rstrip('.')}0?\b", text), entry


def test_every_benchmark_has_its_section():
    section("Zero-shot classification")
    assert "| [`zero-shot`](#zero-shot-classification) |" in TEXT
    for name in cli.evaluate.BENCHMARKS:
        section(SECTIONS[name])
        assert re.search(rf"^\| \[`{name}`\]\(#", TEXT, flags=re.MULTILINE), name


def test_python_code_runs(tmp_path, monkeypatch):
    """Metrics from a file of answers, and into a card: of scenes, in the place of what the document names."""
    monkeypatch.chdir(tmp_path)
    report = write_shapes(ShapesOptions("rec", seed=1, evaluation=True), 4, tmp_path / "data" / "eval" / "refcoco")
    [file] = report.files
    Path(file).rename(Path(file).with_name("val-00000-of-00001.parquet"))
    rows = load_benchmark_rows("data/eval/refcoco@val").dataset.remove_columns("image")
    answers = [
        Prediction(index, row["image_id"], "", [("", Regions(row["target_boxes_xyxy"], [0.9]))] * (index > 0), "")
        for index, row in enumerate(rows)
    ]
    write_jsonl(tmp_path / "results" / "rec" / "refcoco@val" / "predictions.jsonl", [a.to_dict() for a in answers])
    first, second = [text for language, text in blocks(DOCUMENT) if language == "python"]
    namespace: dict = {}
    exec(compile(first, str(DOCUMENT), "exec"), namespace)
    assert namespace["metrics"]["acc@0.5"] == 0.75 and namespace["metrics"]["missing"] == 0.25
    settings = {"dataset": "data/eval/refcoco", "split": "val", "rows": 4}
    results = Results("rec", namespace["metrics"], settings, asked=4, seconds=1.0, complete=True)
    path = tmp_path / "results" / "sft-refcoco" / RESULTS_NAME
    write_file(path, json.dumps(asdict(results)).encode())
    (tmp_path / "output" / "sft").mkdir(parents=True)
    exec(compile(second, str(DOCUMENT), "exec"), namespace)
    assert "acc@0.5" in (tmp_path / "output" / "sft" / "README.md").read_text()
