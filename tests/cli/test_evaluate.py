"""`groma evaluate`. Run in this process, so that the imports are paid for once."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import Dataset
from huggingface_hub import ModelCard

from transformers_groma import GromaForRegionProposal, GromaImageProcessor, cli
from transformers_groma.cli import evaluate as command
from transformers_groma.data.columns import text_part
from transformers_groma.evaluation import text_encoders
from transformers_groma.evaluation.benchmarks.llava_bench_files import LLAVA_BENCH_FEATURES
from transformers_groma.evaluation.loading import BENCHMARKS, load_benchmark, load_benchmark_rows, load_model
from transformers_groma.evaluation.metrics import cider_meteor as caption_metrics
from transformers_groma.evaluation.metrics.ptb_tokenizer import JavaMissingError
from transformers_groma.shapes.rows import ShapesOptions, write_shapes

from ..evaluation.samples import files_in, question
from ..training.rows import save_training_model

# Which scenes each benchmark is asked about.
SHAPES = {
    "rec": ("rec", True),
    "lvis-ground": ("grounding", True),
    "region-caption": ("region-caption", True),
    "grounded-caption": ("grounded-caption", False),
    "detection": ("detection", False),
    "referring-segmentation": ("rec", True),
    "grounded-conversation": ("grounded-caption", False),
    "interactive-segmentation": ("detection", False),
}
ROWS = 3


@pytest.fixture
def run(capsys):
    """Run a command; returns its exit code, stdout and stderr without progress bars."""

    def run(*arguments) -> tuple[int, str, str]:
        capsys.readouterr()
        code = cli.main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        # Answers, and rows of a dataset that is read for the first time.
        lines = [line for line in err.splitlines() if line and "row/s" not in line and " examples" not in line]
        return code, out, "\n".join(line.rsplit("\r", 1)[-1] for line in lines)

    return run


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory) -> Path:
    return save_training_model(tmp_path_factory.mktemp("model"), masks=True)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> Path:
    """A folder of scenes for each benchmark, of 112 pixels."""
    folder = tmp_path_factory.mktemp("shapes")
    for name, (task, evaluation) in SHAPES.items():
        options = ShapesOptions(task, 0, split="test", evaluation=evaluation, image_size=112, questions=1)
        write_shapes(options, ROWS, folder / name)
    return folder


@pytest.fixture
def evaluate(run, model_dir, shapes, tmp_path):
    def evaluate(name, *arguments, dataset=None):
        return run(
            *("evaluate", name, "--dataset", dataset or shapes / name, "--output", tmp_path / "out"),
            *("--model", model_dir, "--device", "cpu", "--max-new-tokens", "6", *arguments),
        )

    return evaluate


@pytest.mark.parametrize("name", SHAPES)
def test_every_benchmark(evaluate, tmp_path, monkeypatch, name):
    def missing():
        raise JavaMissingError("There is no Java.")

    monkeypatch.setattr(caption_metrics, "require_java", missing)
    code, out, err = evaluate(name, "--batch-size", "2", "--gallery", "2")
    assert code == 0, err
    assert {"predictions.jsonl", "results.json", "results.md", "gallery.html"} <= set(files_in(tmp_path / "out"))
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["benchmark"] == name and results["complete"] and results["settings"]["rows"] == ROWS
    assert results["settings"]["split"] == "test" and results["settings"]["batch_size"] == 2
    printed = {line.split()[0]: float(line.split()[1]) for line in out.splitlines()}
    assert printed == pytest.approx(results["metrics"], abs=1e-4)
    assert str(tmp_path / "out" / "results.json") in err


def test_a_protocol_and_its_name_in_the_card(evaluate, tmp_path):
    (tmp_path / "card").mkdir()
    code, out, err = evaluate("referring-segmentation", "--protocol", "glamm-release", "--card", tmp_path / "card")
    assert code == 0, err
    assert [line.split()[0] for line in out.splitlines()] == ["ciou", "giou"]
    assert "protocol | glamm-release" in (tmp_path / "out" / "results.md").read_text()
    results = ModelCard.load(tmp_path / "card" / "README.md").data.eval_results
    assert {result.dataset_config for result in results} == {"glamm-release"}


def test_an_encoder_of_phrases(evaluate, tmp_path, monkeypatch):
    class Yes:
        name = "org/encoder"

        def __init__(self, name, device):
            assert (name, str(device)) == ("org/encoder", "cpu")

        def __call__(self, first, second):
            return [1.0] * len(first)

    monkeypatch.setattr(text_encoders, "TextEncoder", Yes)
    monkeypatch.setenv("PATH", str(tmp_path))  # no Java
    code, _, err = evaluate("grounded-conversation", "--text-encoder", "org/encoder")
    assert code == 0, err
    settings = json.loads((tmp_path / "out" / "results.json").read_text())["settings"]
    assert settings["text_similarity"] == "org/encoder"


@pytest.mark.parametrize("name", ["referring-segmentation", "grounded-conversation", "interactive-segmentation"])
def test_masks_need_a_model_that_decodes_them(run, tmp_path, name):
    """One sentence, before the dataset is read."""
    model = save_training_model(tmp_path / "model")
    arguments = ("--model", model, "--dataset", "no/such/folder", "--output", tmp_path / "out", "--device", "cpu")
    code, out, err = run("evaluate", name, *arguments)
    assert (code, out) == (2, "") and len(err.splitlines()) == 1
    assert f"--model '{model}': {name} compares masks, and the model has no mask decoder" in err
    assert "`groma train masks` adds one" in err and not (tmp_path / "out" / "results.json").exists()


def test_options_reach_the_run(evaluate, tmp_path, model_dir):
    code, _, err = evaluate(
        "rec",
        "--limit",
        "2",
        "--prompt-seed",
        "4",
        "--box-score-threshold",
        "0.25",
        "--nms-threshold",
        "0.5",
        "--dtype",
        "bfloat16",
    )
    assert code == 0, err
    settings = json.loads((tmp_path / "out" / "results.json").read_text())["settings"]
    expected = {
        "rows": 2,
        "prompt_seed": 4,
        "max_new_tokens": 6,
        "box_score_threshold": 0.25,
        "nms_threshold": 0.5,
        "dtype": "bfloat16",
        "model": str(model_dir),
        "sources": ["shapes-rec"],
    }
    assert {name: settings[name] for name in expected} == expected
    # The same folder for something else.
    code, out, err = evaluate("rec")
    assert (code, out) == (2, "") and "another run" in err and "`prompt_seed` is 4 there and None now" in err


def test_thresholds_reach_the_regions(model_dir):
    model, _ = load_model(model_dir, box_score_threshold=0.5)
    assert model.model.config.box_score_threshold == 0.5
    whole, _ = load_model(model_dir)
    assert whole.config.box_score_threshold == 0.0


def test_metrics_go_into_a_card(evaluate, tmp_path):
    card = tmp_path / "card"
    card.mkdir()
    (card / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Mine\n")
    code, _, err = evaluate("rec", "--card", card)
    assert code == 0, err
    assert str(card / "README.md") in err
    results = ModelCard.load(card / "README.md").data.eval_results
    assert "acc@0.5" in {result.metric_type for result in results} | {result.metric_name for result in results}


def test_a_detector_alone_can_be_measured(run, shapes, model_dir, tmp_path):
    detector = tmp_path / "detector"
    GromaForRegionProposal.from_pretrained(model_dir).save_pretrained(detector)
    GromaImageProcessor.from_pretrained(model_dir).save_pretrained(detector)
    arguments = (
        "--dataset",
        shapes / "detection",
        "--output",
        tmp_path / "out",
        "--model",
        detector,
        "--device",
        "cpu",
    )
    assert run("evaluate", "detection", *arguments)[0] == 0
    code, _, err = run("evaluate", "rec", *arguments)
    assert code == 2 and "groma_region_proposal" in err


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("vqa", (), ["'vqa'", "lvis-ground"]),
        ("rec", ("--batch-size", "0"), ["--batch-size", "'0'"]),
        ("rec", ("--nms-threshold", "2"), ["--nms-threshold", "'2'", "from 0 to 1"]),
        ("rec", ("--split", "val"), ["--dataset", "val-*.parquet", "splits found: test"]),
        ("rec", ("--card", "no/such/folder"), ["--card", "not a folder"]),
        ("rec", ("--judge", "gpt"), ["--judge belongs to llava-bench"]),
        ("rec", ("--protocol", "glamm-release"), ["--protocol", "rec has no protocol", "referring-segmentation"]),
        ("rec", ("--text-encoder", "bert"), ["--text-encoder belongs to grounded-conversation", "rec"]),
        ("grounded-conversation", ("--text-encoder", "no/such/one"), ["--text-encoder 'no/such/one'"]),
        ("detection", ("--images", "photos"), ["--images belongs to llava-bench", "detection"]),
        ("llava-bench", (), ["llava-bench", "'question_id'"]),
        ("llava-bench", ("--images", "photos"), ["qa90_gpt4_answer.jsonl", "missing"]),
    ],
)
def test_mistakes_end_with_one_line(evaluate, shapes, name, arguments, words):
    dataset = shapes / "rec" if name in ("vqa", "llava-bench") else None
    code, out, err = evaluate(name, *arguments, dataset=dataset)
    assert (code, out) == (2, ""), err
    assert len(err.splitlines()) == 1, err
    assert all(word in err for word in words), err


def test_wrong_rows_end_with_one_line(evaluate, shapes):
    # The detection columns are among those of evaluation, but the boxes there are those that a user points at.
    code, _, err = evaluate("detection", dataset=shapes / "rec")
    assert code == 2 and "no `boxes_xyxy` at all" in err
    code, _, err = evaluate("rec", dataset=shapes / "detection")
    assert code == 2 and "do not fit `groma evaluate rec`" in err


def test_only_a_judge_needs_the_client_of_endpoints(model_dir, tmp_path):
    """Without `openai`: answers are written down, and a judge is refused before the model is loaded."""
    row = question(0, [text_part("What is it?")], references=["A square."], category="conv")
    rows = Dataset.from_list([row | {"question_id": "0", "context": "A square."}], features=LLAVA_BENCH_FEATURES)
    rows.to_parquet(tmp_path / "test-00000-of-00001.parquet")
    code = (
        "import sys; sys.modules['openai'] = None; from transformers_groma import cli; "
        "judge = ['--judge', 'some-model', '--base-url', 'http://localhost/v1']; "
        "print([cli.main([*sys.argv[1:], *more]) for more in ([], judge)])"
    )
    command = [sys.executable, "-c", code, "evaluate", "llava-bench", "--model", model_dir, "--dataset", tmp_path]
    command += ["--output", tmp_path / "out", "--device", "cpu", "--max-new-tokens", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.stdout == "[0, 2]\n", done.stderr
    assert (tmp_path / "out" / "answers.jsonl").is_file()
    line = done.stderr.splitlines()[-1]
    assert "--judge 'some-model'" in line and 'pip install "transformers-groma[data]"' in line


def test_names(shapes):
    assert tuple(BENCHMARKS) == command.BENCHMARKS
    assert {name: load_benchmark(name).name for name in BENCHMARKS} == {name: name for name in BENCHMARKS}
    # A benchmark is in the file that is called what the command calls it.
    for name in BENCHMARKS:
        module = importlib.import_module(f"transformers_groma.evaluation.benchmarks.{name.replace('-', '_')}")
        assert module.BENCHMARK is BENCHMARKS[name]
    rows = load_benchmark_rows(f"{shapes / 'rec'}@test")
    assert (rows.name, rows.split, len(rows.dataset)) == (str(shapes / "rec"), "test", ROWS)
    for arguments, words in (
        ((f"{shapes / 'rec'}@test", "val"), "names the split 'test' and `split` is 'val'"),
        ((f"{shapes / 'rec'}:0.5",), "has a ratio"),
    ):
        with pytest.raises(ValueError, match=words):
            load_benchmark_rows(*arguments)
    with pytest.raises(ValueError, match="no benchmark 'vqa'"):
        load_benchmark("vqa")
