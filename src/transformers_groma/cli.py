"""The command line: `groma chat`, `groma propose`, `groma convert`, `groma data`, `groma train`, `groma evaluate`,
`groma demo`.

Results go to stdout, notes and errors to stderr. A mistake of the user ends with one line and exit code 2. Torch and
transformers are imported by the commands that need them, so that `groma --help` answers at once.
"""

import argparse
import ast
import importlib
import io
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._files import write_file

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from .data.shapes_demo import Comparison
    from .grounding import GroundedText
    from .pipeline_groma import ImageGroundingPipeline

REGION_MARK = "<region>"
TRAINING_STAGES = ("detection", "alignment", "sft", "precompute-regions")
BENCHMARKS = ("rec", "lvis-ground", "region-caption", "grounded-caption", "detection", "llava-bench")
DTYPES = ("float32", "bfloat16", "float16")
LEGACY_CHECKPOINT = Path("tests", "fixtures", "golden", "legacy_checkpoint")
DEMO_PHOTO = Path("tests", "fixtures", "photos", "cat_and_dog.jpg")
DEMO_BOX = (30.0, 212.0, 372.0, 585.0)  # the cat
DEMO_QUESTION = f"What is {REGION_MARK}?"
DEMO_DESCRIPTION = "[grounding]Please describe the image in detail."
DEMO_SEED = 0
DEMO_SCENE_SIZE = 448  # pixels; enough to read the labels in the pictures
DEMO_MAX_NEW_TOKENS = 140  # a description of six shapes with their regions
SHAPES_HELP = "draw scenes of coloured shapes, with questions and answers whose truth is known"
SHAPES_TASKS = ("detection", "rec", "grounding", "region-caption", "grounded-caption", "chat")
FOLDER_HELP = "read pictures with boxes of your own: an image folder with a metadata.jsonl"
FOLDER_TASKS = ("conversation", "region-caption", "rec", "grounding", "detection")
BOX_FORMATS = ("xyxy", "xywh", "cxcywh")


class CommandError(Exception):
    """A mistake of the user, in words for the user."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv (`Sequence[str]`, *optional*): arguments without the program's name; those of the process by default.

    Returns:
        `int`: 0, or 2 after a mistake of the user.

    Example:
    >>> from transformers_groma.cli import main
    >>> main(["chat", "no-such-photo.jpg", "What is this?"])
    2
    """
    try:
        arguments = build_parser().parse_args(argv)
    except SystemExit as exit:  # argparse ends the process after --help (0) and after bad arguments (2)
        return int(exit.code or 0)
    try:
        arguments.run(arguments)
    except CommandError as error:
        _note(f"groma {arguments.command}: error: {_one_line(error)}")
        return 2
    return 0


def build_parser() -> argparse.ArgumentParser:
    """The parser of `groma` and all its commands."""
    parser = _Parser(
        prog="groma",
        description="Groma, a language model that points: ask about an image, get words tied to places.",
        epilog='example: groma chat photo.jpg "What is <region>?" --box 30,212,372,585 --output answer',
    )
    parser.add_argument("--version", action=_Version)
    commands = parser.add_subparsers(
        title="commands", dest="command", required=True, metavar="COMMAND", parser_class=_CommandParser
    )

    def add_command(name: str, run: Callable[[argparse.Namespace], None], text: str, example: str, **kwargs):
        command = commands.add_parser(
            name,
            help=text,
            description=text[0].upper() + text[1:] + ".",
            epilog=f"example: {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            **kwargs,
        )
        command.set_defaults(run=run)
        return command

    chat = add_command(
        "chat",
        run_chat,
        "ask a question about an image and its boxes",
        'groma chat photo.jpg "What is <region>?" --box 30,212,372,585 --output answer\n'
        '         groma chat photo.jpg "[grounding] Describe the image in detail." --model org/groma-7b --json',
    )
    chat.add_argument("image", metavar="IMAGE", help="path or http(s) URL of an image")
    chat.add_argument(
        "question",
        metavar="QUESTION",
        nargs="?",
        help=f"with a {REGION_MARK} mark for each box; [grounding] at its head asks for a grounded answer. Without it the "
        "model describes the boxes or, without boxes, the image",
    )
    chat.add_argument(
        "--box",
        dest="boxes",
        metavar="X1,Y1,X2,Y2",
        type=_parse_box,
        action="append",
        default=[],
        help=f"a region that the question points at: corners in pixels of the upright image; the k-th box is the k-th "
        f"{REGION_MARK}",
    )
    _add_model_arguments(chat)
    _add_output_arguments(chat, "answer.json and answer.png")
    chat.add_argument(
        "--max-new-tokens", metavar="N", type=_positive(int), default=256, help="longest answer (default: %(default)s)"
    )
    chat.add_argument("--sample", action="store_true", help="draw the words at random instead of the likeliest ones")
    chat.add_argument("--temperature", metavar="T", type=_positive(float), help="of sampling; implies --sample")
    chat.add_argument("--top-p", metavar="P", type=_positive(float, 1.0), help="of sampling; implies --sample")
    chat.add_argument("--seed", metavar="N", type=int, help="makes sampling repeatable")

    propose = add_command(
        "propose",
        run_propose,
        "find the regions of an image that the model would offer to its language model",
        "groma propose photo.jpg --output proposals",
    )
    propose.add_argument("image", metavar="IMAGE", help="path or http(s) URL of an image")
    _add_model_arguments(propose)
    _add_output_arguments(propose, "proposals.json and proposals.png")

    convert = add_command(
        "convert",
        run_convert,
        "convert a released checkpoint of the original Groma, or put a model together from components",
        "groma convert groma-7b-finetune groma-7b --dtype bfloat16\n"
        "         groma convert --vision-encoder facebook/dinov2-large groma-detector\n"
        "         groma convert --detector groma-detector --language-model lmsys/vicuna-7b-v1.5 groma-fresh",
        usage="groma convert [options] LEGACY_DIR OUT_DIR\n"
        "       groma convert [options] --detector MODEL --language-model MODEL OUT_DIR\n"
        "       groma convert [options] --vision-encoder MODEL OUT_DIR",
    )
    convert.add_argument(
        "legacy_dir", metavar="LEGACY_DIR", nargs="?", help="folder of a released checkpoint (whole model or stage 1)"
    )
    convert.add_argument("output_dir", metavar="OUT_DIR", help="folder to write; it appears when it is complete")
    convert.add_argument(
        "--detector", metavar="MODEL", help="folder or Hub name of a stage-1 detector of this package"
    )
    convert.add_argument("--language-model", metavar="MODEL", help="folder or Hub name of a causal language model")
    convert.add_argument("--vision-encoder", metavar="MODEL", help="folder or Hub name of a vision transformer")
    convert.add_argument("--dtype", choices=DTYPES, help="of the written weights; as in LEGACY_DIR, else float32")
    convert.add_argument("--overwrite", action="store_true", help="replace OUT_DIR if it exists")

    data = add_command(
        "data",
        run_data,
        "make a dataset to train or evaluate on; without a source, list the sources there are",
        "groma data shapes --task chat --rows 1000 --seed 0 --output shapes-chat",
    )
    data.is_intermixing = True  # intermixed parsing cannot go on to the parser of a source
    sources = data.add_subparsers(title="sources", dest="data_source", metavar="SOURCE", parser_class=_CommandParser)
    _add_shapes_arguments(
        sources.add_parser(
            "shapes",
            help=SHAPES_HELP,
            description=f"{SHAPES_HELP[0].upper()}{SHAPES_HELP[1:]}. The same arguments make the same rows on any machine; "
            "splits share no scene, whatever the seeds.",
            epilog="example: groma data shapes --task chat --rows 1000 --seed 0 --output shapes-chat\n"
            "         groma data shapes --task rec --rows 200 --seed 1 --output shapes-rec --split test --evaluation "
            "--preview 12",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
    )
    _add_folder_arguments(
        sources.add_parser(
            "folder",
            help=FOLDER_HELP,
            description=f"{FOLDER_HELP[0].upper()}{FOLDER_HELP[1:]}, in the layout of Hugging Face's imagefolder with a text "
            "for each box, one line a picture:\n\n"
            '{"file_name": "a.jpg", "objects": {"bbox": [[30, 212, 342, 373]], "text": ["a cat"]}}',
            epilog="example: groma data folder photos/train --output data/photos --preview 8\n"
            "         groma data folder photos/validation --output data/photos --split validation",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
    )

    train = add_command(
        "train",
        run_train,
        "train a stage: detection, alignment, sft; precompute-regions speeds the last two up",
        "groma train sft --config hub_configs/recipes/sft.yaml --model_name_or_path org/groma --output_dir output/sft\n"
        "         groma train sft --help",
    )
    train.is_intermixing = True  # all that follows the stage belongs to it
    train.add_argument("stage", metavar="STAGE", choices=TRAINING_STAGES, help=", ".join(TRAINING_STAGES))
    train.add_argument("stage_arguments", metavar="ARGUMENTS", nargs=argparse.REMAINDER, help="of the stage")

    _add_evaluate_arguments(
        add_command(
            "evaluate",
            run_evaluate,
            f"measure a model on a benchmark: {', '.join(BENCHMARKS)}",
            "groma evaluate rec --model org/groma-7b --dataset data/refcoco@val --output results/refcoco-val\n"
            "         groma data shapes --task rec --rows 200 --seed 1 --split test --evaluation --output shapes-rec\n"
            "         groma evaluate rec --dataset shapes-rec --output results/shapes-rec --gallery 20\n"
            "         accelerate launch -m transformers_groma.cli evaluate lvis-ground --model org/groma-7b --dataset "
            "data/lvis_ground@val --output results/lvis",
        )
    )

    demo = add_command(
        "demo",
        run_demo,
        "answer about a scene of coloured shapes and about a photo, and write pictures of the answers",
        "groma demo --output demo_output",
    )
    demo.add_argument(
        "--image", metavar="IMAGE", help="path or http(s) URL; the photo of the source checkout by default"
    )
    demo.add_argument(
        "--scene", metavar="N", type=_natural, default=0, help="which test scene, from 0 on (default: %(default)s)"
    )
    _add_model_arguments(demo)
    demo.add_argument("--output", metavar="DIR", type=Path, default=Path("demo_output"), help="(default: %(default)s)")
    return parser


class _Parser(argparse.ArgumentParser):
    """Reports a mistake in one line, without the usage."""

    def error(self, message: str) -> None:
        self.exit(2, f"{self.prog}: error: {_one_line(message)} (see {self.prog} --help)\n")


class _CommandParser(_Parser):
    """Lets options stand between the positional arguments, which argparse refuses where the last one is optional."""

    is_intermixing = False

    def parse_known_args(self, args=None, namespace=None):
        if self.is_intermixing:
            return super().parse_known_args(args, namespace)
        self.is_intermixing = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self.is_intermixing = False


class _Version(argparse.Action):
    """Prints the version; unlike argparse's own action it looks it up only when asked."""

    def __init__(self, option_strings: list[str], dest: str):
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, help="print the version")

    def __call__(self, parser: argparse.ArgumentParser, *_) -> None:
        from . import __version__

        print(__version__)
        parser.exit()


def _add_model_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", metavar="DIR_OR_REPO", help="folder or Hub name of a model; the tiny one of this package by default"
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1, mps, …; the best one there is by default")
    parser.add_argument(
        "--dtype", choices=("auto", *DTYPES), default="auto", help="of the weights (default: as saved)"
    )


def _add_shapes_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=run_data_shapes)
    parser.add_argument("--task", required=True, choices=SHAPES_TASKS, help="what the rows teach or test")
    parser.add_argument("--rows", metavar="N", type=_positive(int), required=True, help="how many rows, a scene each")
    parser.add_argument("--seed", metavar="N", type=_natural, required=True, help="another seed makes other scenes")
    parser.add_argument("--output", metavar="DIR", type=Path, required=True, help="folder of the Parquet files")
    parser.add_argument(
        "--split", choices=("train", "validation", "test"), default="train", help="(default: %(default)s)"
    )
    parser.add_argument(
        "--questions", metavar="K", type=_positive(int), default=8, help="most questions about a scene (default: 8)"
    )
    parser.add_argument(
        "--evaluation", action="store_true", help="evaluation columns: one question a row, without its answer"
    )
    parser.add_argument(
        "--image-size", metavar="N", type=_positive(int), default=224, help="side in pixels (default: %(default)s)"
    )
    parser.add_argument(
        "--max-regions",
        metavar="N",
        type=_positive(int),
        default=30,
        help="region slots of the model that will learn from the rows (default: %(default)s)",
    )
    parser.add_argument(
        "--position-share",
        metavar="P",
        type=float,
        default=0.15,
        help="how many questions of the task rec tell objects apart by position (default: %(default)s)",
    )
    parser.add_argument(
        "--shards", "--num-shards", metavar="N", type=_positive(int), default=1, help="number of files (default: 1)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the files of this split in DIR")
    parser.add_argument(
        "--preview", metavar="N", type=_positive(int), help="also draw the first N rows to preview-TASK.png in DIR"
    )


def _add_folder_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=run_data_folder)
    parser.add_argument("images", metavar="IMAGES", type=Path, help="folder of the pictures and metadata.jsonl")
    parser.add_argument("--output", metavar="DIR", type=Path, required=True, help="folder of the Parquet files")
    parser.add_argument(
        "--task",
        choices=FOLDER_TASKS,
        default="conversation",
        help="what the rows teach or test; conversation: everything but detection (default: %(default)s)",
    )
    parser.add_argument("--split", default="train", help="name of the split (default: %(default)s)")
    parser.add_argument(
        "--box-format",
        choices=BOX_FORMATS,
        default="xywh",
        help="of bbox, in pixels (default: %(default)s, as in COCO)",
    )
    parser.add_argument("--normalized", action="store_true", help="bbox are fractions of the image size, not pixels")
    parser.add_argument(
        "--questions", metavar="K", type=_positive(int), default=8, help="most questions in a row (default: 8)"
    )
    parser.add_argument(
        "--max-regions",
        metavar="N",
        type=_positive(int),
        default=100,
        help="region slots of the model that will learn from the rows: one names half as many boxes at most (default: 100)",
    )
    parser.add_argument(
        "--evaluation", action="store_true", help="evaluation columns: one question a row, without its answer"
    )
    parser.add_argument(
        "--seed", metavar="N", type=_natural, default=0, help="draws the wording of the questions (default: 0)"
    )
    parser.add_argument("--shards", metavar="N", type=_positive(int), default=1, help="number of files (default: 1)")
    parser.add_argument("--overwrite", action="store_true", help="replace the files of this split in DIR")
    parser.add_argument(
        "--preview",
        metavar="N",
        type=_positive(int),
        help="also draw the boxes of the first N pictures, to DIR/preview",
    )


def _add_evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("benchmark", metavar="BENCHMARK", choices=BENCHMARKS, help=", ".join(BENCHMARKS))
    parser.add_argument(
        "--dataset",
        metavar="PATH[@SPLIT]",
        required=True,
        help="folder with Parquet files, one file, or a Hub name; for llava-bench the folder of its published files",
    )
    parser.add_argument("--split", help="of the dataset, where PATH names none (default: test)")
    parser.add_argument(
        "--output",
        metavar="DIR",
        type=Path,
        required=True,
        help="for predictions.jsonl, results.json, results.md and plots; a run that was killed goes on there",
    )
    _add_model_arguments(parser)
    parser.add_argument(
        "--batch-size", metavar="N", type=_positive(int), default=16, help="rows at once (default: %(default)s)"
    )
    parser.add_argument("--limit", metavar="N", type=_positive(int), help="the first N rows only")
    parser.add_argument(
        "--prompt-seed",
        metavar="N",
        type=_natural,
        help="draw the wording of each question; by default rows keep their own, which is the standard one",
    )
    parser.add_argument(
        "--max-new-tokens", metavar="N", type=_positive(int), help="longest answer (default: the benchmark's)"
    )
    parser.add_argument(
        "--box-score-threshold", metavar="X", type=_share, help="regions need a higher score (default: the model's)"
    )
    parser.add_argument(
        "--nms-threshold",
        metavar="X",
        type=_share,
        help="a region gives way to a better one that it overlaps by more (default: the model's)",
    )
    parser.add_argument(
        "--gallery", metavar="N", type=_positive(int), default=0, help="draw the N worst answers to gallery.html"
    )
    parser.add_argument("--card", metavar="MODEL_DIR", type=Path, help="write the figures into the model card there")
    judge = parser.add_argument_group("llava-bench", "Without a judge there are answers, but no figures.")
    judge.add_argument("--images", metavar="DIR", type=Path, help="the photos of COCO val2014")
    judge.add_argument("--judge", metavar="MODEL", help="name of a model that scores the answers")
    judge.add_argument("--base-url", metavar="URL", help="an OpenAI-compatible server (default: OpenAI)")
    judge.add_argument(
        "--api-key-env", metavar="NAME", default="OPENAI_API_KEY", help="variable with the key (default: %(default)s)"
    )
    judge.add_argument(
        "--concurrency", metavar="N", type=_positive(int), default=8, help="requests at a time (default: %(default)s)"
    )
    judge.add_argument(
        "--requests-per-minute",
        metavar="X",
        type=_positive(float),
        help="at most, retries included (default: no limit)",
    )
    judge.add_argument(
        "--price-in", metavar="X", type=_positive(float), default=0.0, help="of a million prompt tokens"
    )
    judge.add_argument(
        "--price-out", metavar="X", type=_positive(float), default=0.0, help="of a million completion tokens"
    )
    judge.add_argument("--max-cost", metavar="X", type=_positive(float), help="end before reviews cost more")


def _add_output_arguments(parser: argparse.ArgumentParser, files: str) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON and nothing else")
    parser.add_argument("--output", metavar="DIR", type=Path, help=f"write {files} there")


def _parse_box(text: str) -> tuple[float, ...]:
    try:
        box = tuple(float(number) for number in text.split(","))
    except ValueError:
        box = ()
    if len(box) != 4:
        raise argparse.ArgumentTypeError(f"{text!r} is no box: write x1,y1,x2,y2 in pixels, as in 30,212,372,585")
    return box


def _natural(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} must be an integer from 0 on")
    return int(text)


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a number from 0 to 1")
    return value


def _positive(kind: type, limit: float = sys.float_info.max) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = 0
        if not 0 < value <= limit:
            up_to = f" up to {limit:g}" if limit < sys.float_info.max else ""
            raise argparse.ArgumentTypeError(
                f"{text!r} must be a positive {'integer' if kind is int else 'number'}{up_to}"
            )
        return value

    return parse


def run_chat(arguments: argparse.Namespace) -> None:
    """`groma chat`: one question, one answer."""
    folder = _checked_folder(arguments.output)
    question = arguments.question
    if question is not None:
        if not question.strip():
            raise CommandError("QUESTION is empty: write one, or leave it out for the default question.")
        marks = question.count(REGION_MARK)
        if marks != len(arguments.boxes):
            raise CommandError(
                f"QUESTION has {marks} {REGION_MARK} marks for {len(arguments.boxes)} --box: write one {REGION_MARK} for "
                f'each box, as in "{DEMO_QUESTION}", or leave QUESTION out for the default one. Got {question!r}.'
            )
    image = _open_upright(arguments.image)
    _check_boxes(arguments.boxes, image)
    generate_kwargs = {"max_new_tokens": arguments.max_new_tokens}
    if arguments.sample or arguments.temperature is not None or arguments.top_p is not None:
        sampling = {"do_sample": True, "temperature": arguments.temperature, "top_p": arguments.top_p}
        generate_kwargs |= {name: value for name, value in sampling.items() if value is not None}

    pipe = _load_pipeline(arguments.model, arguments.device, arguments.dtype)
    if arguments.seed is not None:
        import torch

        torch.manual_seed(arguments.seed)
    answer = _ask(pipe, image, question, arguments.boxes, generate_kwargs)
    if arguments.json:
        print(json.dumps(answer.to_dict()))
    else:
        print(_printable(_answer_lines(answer)))
    if folder is not None:
        _write_answer(folder, "answer", answer, image, len(arguments.boxes))
        _note(f"wrote {folder / 'answer.json'} and {folder / 'answer.png'}")


def run_propose(arguments: argparse.Namespace) -> None:
    """`groma propose`: the regions of an image, without the language model."""
    folder = _checked_folder(arguments.output)
    image = _open_upright(arguments.image)
    regions = _propose(arguments.model, image, arguments.device, arguments.dtype)
    if arguments.json:
        print(json.dumps({"regions": regions}))
    else:
        print(f"{len(regions)} regions: name, score, x1, y1, x2, y2")
        for region in regions:
            print(f"{'r' + str(region['id']):>4}  {region['score']:.2f}  {_numbers(region['box_xyxy'])}")
    if folder is not None:
        _write_proposals(folder, regions, image)
        _note(f"wrote {folder / 'proposals.json'} and {folder / 'proposals.png'}")


def run_convert(arguments: argparse.Namespace) -> None:
    """`groma convert`: a checkpoint of the original, or components, to a model of this package."""
    components = {
        "detector": arguments.detector,
        "language_model": arguments.language_model,
        "vision_encoder": arguments.vision_encoder,
    }
    given = {name for name, value in components.items() if value is not None}
    wanted = [set(), {"detector", "language_model"}, {"vision_encoder"}]
    if given not in wanted or (arguments.legacy_dir is None) == (not given):
        raise CommandError(
            "pass LEGACY_DIR and OUT_DIR, or --detector, --language-model and OUT_DIR, or --vision-encoder and OUT_DIR."
        )
    output_dir = Path(arguments.output_dir)
    is_taken = (output_dir.is_dir() and any(output_dir.iterdir())) or output_dir.is_file()
    if is_taken and not arguments.overwrite:
        raise CommandError(f"OUT_DIR {output_dir} exists: pass another folder, or --overwrite to replace it.")
    if arguments.legacy_dir is not None and not Path(arguments.legacy_dir).is_dir():
        raise CommandError(f"LEGACY_DIR {arguments.legacy_dir!r} is no folder: pass that of a released checkpoint.")

    import torch

    from .convert_groma_checkpoint import assemble_components, convert_legacy_checkpoint

    dtype = None if arguments.dtype is None else getattr(torch, arguments.dtype)
    sources = [f"--{name.replace('_', '-')} {components[name]!r}" for name in sorted(given)]
    with _errors_of(" and ".join(sources) or f"LEGACY_DIR {arguments.legacy_dir!r}"):
        if given:
            assemble_components(output_dir, **components, dtype=dtype or torch.float32, overwrite=arguments.overwrite)
        else:
            convert_legacy_checkpoint(arguments.legacy_dir, output_dir, dtype=dtype, overwrite=arguments.overwrite)
    print(output_dir)


def run_train(arguments: argparse.Namespace) -> None:
    """`groma train STAGE …`: the command line of a training stage."""
    try:
        module = importlib.import_module(f"{__package__}.training.{arguments.stage.replace('-', '_')}")
    except ImportError as error:
        raise CommandError(
            f'{error}. Install what training needs: pip install "transformers-groma[train]".'
        ) from error
    try:
        module.main(arguments.stage_arguments)
    except (ValueError, FileNotFoundError) as error:
        raise CommandError(str(error)) from error


def run_evaluate(arguments: argparse.Namespace) -> None:
    """`groma evaluate`: a benchmark, into a folder."""
    folder = _checked_folder(arguments.output)
    if arguments.card is not None and not arguments.card.is_dir():
        raise CommandError(f"--card {str(arguments.card)!r} is no folder: pass that of a model.")
    is_judged = arguments.benchmark == "llava-bench"
    if not is_judged and (arguments.images is not None or arguments.judge is not None):
        raise CommandError(f"--images and --judge are of llava-bench: leave them out for {arguments.benchmark}.")
    model_types = ("groma", "groma_region_proposal") if arguments.benchmark == "detection" else ("groma",)
    model = _checked_model(arguments.model, model_types)
    try:
        from .evaluation.card import add_results_to_card
        from .evaluation.judged import judged_benchmark, load_judged_rows
        from .evaluation.loading import load_benchmark, load_benchmark_rows, load_model
        from .evaluation.report import REPORT_NAME, RESULTS_NAME
        from .evaluation.runner import evaluate, process_state
    except ImportError as error:
        raise CommandError(
            f'{error}. Install what evaluation needs: pip install "transformers-groma[eval]".'
        ) from error

    with _errors_of(f"--dataset {arguments.dataset!r}"):
        if is_judged:
            rows = load_judged_rows(arguments.dataset, arguments.images, arguments.split)
        else:
            rows = load_benchmark_rows(arguments.dataset, arguments.split)
    dataset = rows.dataset
    if arguments.limit is not None:
        dataset = dataset.select(range(min(arguments.limit, len(dataset))))
    judge = None
    errors: tuple[type[Exception], ...] = (ValueError, OSError)
    if arguments.judge is not None:
        try:
            from .data.endpoint import EndpointError
            from .evaluation.llava_judge import judge_of
        except ImportError as error:
            raise CommandError(f"--judge {arguments.judge!r}: {error}") from error
        errors += (EndpointError,)
        with _errors_of("--judge"):
            judge = judge_of(
                arguments.judge,
                arguments.base_url,
                arguments.api_key_env,
                concurrency=arguments.concurrency,
                requests_per_minute=arguments.requests_per_minute,
                price_in=arguments.price_in,
                price_out=arguments.price_out,
                max_cost=arguments.max_cost,
            )
    benchmark = judged_benchmark(folder, judge) if is_judged else load_benchmark(arguments.benchmark)
    device = None if arguments.device is None else _checked_device(arguments.device)
    state = process_state(device)
    with _errors_of(f"--model {model!r}"):
        loaded, processor = load_model(
            model,
            arguments.dtype,
            state.device if device is None else device,
            box_score_threshold=arguments.box_score_threshold,
            nms_threshold=arguments.nms_threshold,
        )
    try:
        results = evaluate(
            benchmark,
            loaded,
            processor,
            dataset,
            folder,
            batch_size=arguments.batch_size,
            prompt_seed=arguments.prompt_seed,
            max_new_tokens=arguments.max_new_tokens,
            gallery=arguments.gallery,
            model_name=Path(model).name if arguments.model is None else model,
            dataset_name=rows.name,
            split=rows.split,
            notes={} if arguments.judge is None else {"judge": arguments.judge},
        )
    except errors as error:
        raise CommandError(f"{arguments.benchmark}: {error}") from error
    if not state.is_main_process:
        return
    for figure in benchmark.figures:
        if figure.name in results.metrics:
            print(f"{figure.name:28} {results.metrics[figure.name]:9.4f}")
    _note(f"wrote {folder / RESULTS_NAME} and {folder / REPORT_NAME}")
    if arguments.card is not None:
        with _errors_of(f"--card {str(arguments.card)!r}"):
            for path in add_results_to_card(arguments.card, folder / RESULTS_NAME):
                _note(f"wrote {path}")


def run_data(arguments: argparse.Namespace) -> None:
    """`groma data` without a source: the sources there are."""
    print(f"groma data folder\n    {FOLDER_HELP}")
    print(f"groma data shapes\n    {SHAPES_HELP}")
    checkout = source_checkout()
    if checkout is None:
        print("\nThe scripts of other sources are in processing/ of the source repository.")
        return
    print("\nIn the source checkout, one script a raw dataset; --help says where to download it:\n")
    for path in sorted((checkout / "processing").glob("**/*.py")):
        name = ".".join(path.relative_to(checkout).with_suffix("").parts)
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        if f"python -m {name} " in text:
            print(f"python -m {name}\n    {text.splitlines()[0]}")


def run_data_shapes(arguments: argparse.Namespace) -> None:
    """`groma data shapes`: synthetic scenes as Parquet files."""
    folder = _checked_folder(arguments.output)
    try:
        from .data.shapes_preview import contact_sheet
        from .data.shapes_rows import ShapesOptions, write_shapes
    except ModuleNotFoundError as error:
        raise CommandError(f'{error}. Install what datasets need: pip install "transformers-groma[data]".') from error
    with _errors_of("shapes"):
        options = ShapesOptions(
            task=arguments.task,
            seed=arguments.seed,
            split=arguments.split,
            questions=arguments.questions,
            evaluation=arguments.evaluation,
            image_size=arguments.image_size,
            max_regions=arguments.max_regions,
            position_share=arguments.position_share,
        )
        report = write_shapes(options, arguments.rows, folder, arguments.shards, arguments.overwrite)
    for path in report.files:
        print(path)
    if arguments.preview is not None:
        picture = folder / f"preview-{arguments.task}.png"
        _write_png(picture, contact_sheet(options, min(arguments.preview, arguments.rows)))
        print(picture)


def run_data_folder(arguments: argparse.Namespace) -> None:
    """`groma data folder`: an image folder as Parquet files."""
    output = _checked_folder(arguments.output)
    try:
        from .data.image_folder import FolderOptions, draw_image_folder, write_image_folder
    except ModuleNotFoundError as error:
        raise CommandError(f'{error}. Install what datasets need: pip install "transformers-groma[data]".') from error
    with _errors_of(f"IMAGES {str(arguments.images)!r}"):
        options = FolderOptions(
            task=arguments.task,
            box_format=arguments.box_format,
            normalized=arguments.normalized,
            evaluation=arguments.evaluation,
            questions=arguments.questions,
            max_regions=arguments.max_regions,
            seed=arguments.seed,
        )
        report = write_image_folder(
            arguments.images, output, options, arguments.split, arguments.shards, arguments.overwrite
        )
        for path in report.files:
            print(path)
        for name, image in draw_image_folder(arguments.images, options, arguments.preview or 0):
            picture = output / "preview" / f"{Path(name).with_suffix('').as_posix().replace('/', '-')}.png"
            _write_png(picture, image)
            print(picture)
    for name, reason in report.examples:
        _note(f"left out {name}: {reason}")
    if report.rows == 0:
        raise CommandError(f"IMAGES {str(arguments.images)!r} gave no row at all; the reasons are above.")


def run_demo(arguments: argparse.Namespace) -> None:
    """`groma demo`: questions about a scene whose truth is known, then about a photo."""
    folder = _checked_folder(arguments.output)
    checkout = source_checkout()
    source = arguments.image
    if source is None and checkout is not None:
        source = str(checkout / DEMO_PHOTO)
    photo = None if source is None else _open_upright(source)
    pipe = _load_pipeline(arguments.model, arguments.device, arguments.dtype)
    model = arguments.model or embedded_model().name

    pictures = _demo_scene(pipe, model, folder, arguments.scene)
    if photo is None:
        _note("no photo: that of the demo is only in a source checkout; pass --image for one")
    else:
        print(f"\nPhoto: {source}")
        if arguments.model is None:
            print(f"{model} learned coloured shapes and never saw a photo: do not take its words about one for true.")
        # Of another photo the middle is asked about.
        width, height = photo.size
        box = (width / 4, height / 4, width * 3 / 4, height * 3 / 4) if arguments.image else DEMO_BOX
        _demo_ask(pipe, model, folder / "answer", photo, DEMO_QUESTION, [box])
        description = _demo_ask(pipe, model, folder / "description", photo, DEMO_DESCRIPTION, [])
        _write_proposals(folder, description.to_dict()["regions"], photo)
        pictures += ["answer", "description", "proposals"]
    print("\nLook at the pictures; what they show lies beside them as JSON:")
    for name in pictures:
        print(f"  {folder / name}.png")


def _demo_scene(pipe: "ImageGroundingPipeline", model: str, folder: Path, number: int) -> list[str]:
    """Ask about a scene and compare the answers with the truth. Returns the names of the pictures."""
    from .data.shapes import make_scene
    from .data.shapes_demo import compare, count_found, question_text, scene_questions

    # Splits share no scene: none of "test" was trained on, whatever the seed was.
    scene = make_scene(DEMO_SEED, "test", number, DEMO_SCENE_SIZE)
    image = scene.draw()
    print(f"Scene {number} of the test scenes, which training never sees: {len(scene.objects)} coloured shapes")
    pictures = []
    for name, exchange in scene_questions(scene).items():
        boxes = [scene.boxes_xyxy[index] for index in exchange.pointed]
        pictures.append(f"scene_{name}")
        answer = _demo_ask(
            pipe,
            model,
            folder / pictures[-1],
            image,
            question_text(exchange),
            boxes,
            lambda answer, exchange=exchange: compare(exchange, scene, answer),
        )
    # The last question points at nothing: all regions are the model's own.
    found = count_found(scene, [region.box.tolist() for region in answer.regions])
    print(
        f"\n{len(answer.regions)} regions, and {found} of {len(scene.objects)} shapes have one (IoU of at least 0.5)"
    )
    _write_proposals(folder, answer.to_dict()["regions"], image, "scene_proposals")
    return [*pictures, "scene_proposals"]


def _demo_ask(
    pipe: "ImageGroundingPipeline",
    model: str,
    path: Path,
    image: "Image.Image",
    question: str,
    boxes: Sequence[Sequence[float]],
    compare: "Callable[[GroundedText], Comparison] | None" = None,
) -> "GroundedText":
    """Ask, print the question, its answer and how that compares with the truth, write the files."""
    answer = _ask(pipe, image, question, boxes, {"max_new_tokens": DEMO_MAX_NEW_TOKENS})
    print("\n".join(["", f"> {question}", *(f"  {'box':<4} {_numbers(box)}" for box in boxes)]))
    # An answer that only points has no words.
    print(_printable(_answer_lines(answer)).lstrip("\n"))
    notes: dict[str, Any] = {
        "model": model,
        "question": question,
        "question_boxes_xyxy": [list(box) for box in boxes],
    }
    if compare is not None:
        comparison = compare(answer)
        print(f"  = {comparison.text}")
        notes["comparison"] = asdict(comparison)
    _write_answer(path.parent, path.name, answer, image, len(boxes), notes)
    return answer


def source_checkout() -> Path | None:
    """The folder of the source checkout that this package runs from, if it does."""
    root = Path(__file__).resolve().parents[2]
    is_checkout = (root / "pyproject.toml").is_file() and (root / LEGACY_CHECKPOINT).is_dir()
    return root if is_checkout else None


def embedded_model() -> Path:
    """The folder of groma-tiny: of the source checkout, else of the installed package.

    Raises:
        CommandError: it is in neither.
    """
    checkout = source_checkout()
    places = [Path(__file__).resolve().parent / "_models" / "groma-tiny"]
    if checkout is not None:
        places.insert(0, checkout / "hub_configs" / "groma-tiny")
    for place in places:
        if (place / "config.json").is_file() and any(place.glob("*.safetensors")):
            return place
    raise CommandError(
        f"--model is needed: the tiny model of this package is not in {places[0]}. `make train-tiny` makes it in a checkout."
    )


def _load_pipeline(model: str | None, device: str | None, dtype: str) -> "ImageGroundingPipeline":
    model = _checked_model(model, ("groma",))
    device = _checked_device(device)
    from transformers import AutoModelForImageTextToText, AutoProcessor

    from .pipeline_groma import ImageGroundingPipeline

    with _errors_of(f"--model {model!r}"):
        processor = AutoProcessor.from_pretrained(model)
        loaded = AutoModelForImageTextToText.from_pretrained(model, dtype=dtype)
    return ImageGroundingPipeline(model=loaded, processor=processor, device=device, task="image-grounding")


def _ask(
    pipe: "ImageGroundingPipeline",
    image: "Image.Image",
    question: str | None,
    boxes: Sequence[Sequence[float]],
    generate_kwargs: dict[str, Any],
) -> "GroundedText":
    with _errors_of("QUESTION and --box"):
        return pipe(image, question, boxes=[list(box) for box in boxes], generate_kwargs=generate_kwargs)


def _propose(model: str | None, image: "Image.Image", device: str | None, dtype: str) -> list[dict[str, Any]]:
    """Regions as in the JSON of an answer. A whole Groma is loaded without its language model."""
    model = _checked_model(model, ("groma", "groma_region_proposal"))
    device = _checked_device(device)
    from transformers import AutoConfig, AutoImageProcessor

    from .boxes import unpack_region_boxes
    from .configuration_groma import GromaRegionProposalConfig
    from .modeling_groma_detector import GromaForRegionProposal

    with _errors_of(f"--model {model!r}"):
        config = AutoConfig.from_pretrained(model)
        if config.model_type == "groma":
            config = GromaRegionProposalConfig(
                vision_config=config.vision_config,
                proposer_config=config.proposer_config,
                max_regions=config.max_regions,
                nms_threshold=config.nms_threshold,
                box_score_threshold=config.box_score_threshold,
                dtype=config.dtype,
            )
        detector = GromaForRegionProposal.from_pretrained(model, config=config, dtype=dtype).to(device)
        image_processor = AutoImageProcessor.from_pretrained(model)
    pixel_values = image_processor(image, return_tensors="pt")["pixel_values"].to(device)
    proposals = detector.propose_regions(pixel_values)
    boxes = unpack_region_boxes(proposals.boxes, proposals.mask, [(image.height, image.width)])[0].tolist()
    scores = proposals.scores[0][proposals.mask[0]].tolist()
    return [
        {"id": index, "box_xyxy": [round(value, 2) for value in box], "score": round(score, 4)}
        for index, (box, score) in enumerate(zip(boxes, scores))
    ]


def _checked_model(model: str | None, model_types: tuple[str, ...]) -> str:
    """The model to load, after a look at its config.json."""
    if model is None:
        model = str(embedded_model())
        _note(
            f"using the embedded {Path(model).name}, a tiny model that shows how things work; pass --model for a real one"
        )
    from transformers import PreTrainedConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    is_folder = Path(model).is_dir()
    if not is_folder and (Path(model).is_absolute() or model.startswith(".") or model.count("/") > 1):
        raise CommandError(
            f"--model {model!r} is no folder: pass that of a model, or a Hub name such as org/groma-7b."
        )
    with _errors_of(f"--model {model!r}"):
        config, _ = PreTrainedConfig.get_config_dict(model)
    if "llm_cfg" in config or "vis_encoder_cfg" in config:
        raise CommandError(
            f"--model {model!r} is a checkpoint of the original Groma: convert it first, `groma convert {model} OUT_DIR`."
        )
    if config.get("model_type") not in model_types:
        raise CommandError(
            f"--model {model!r} holds a model of type {config.get('model_type')!r}: pass one of type "
            f"{' or '.join(map(repr, model_types))}."
        )
    return model


def _checked_device(device: str | None) -> "torch.device":
    import torch

    if device is None:
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        torch.zeros(1, device=device)
    # Torch has no error of its own for this: a wrong name, no driver and a build without the backend all differ.
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        raise CommandError(f"--device {device!r} cannot be used ({reason}): pass cpu or leave it out.") from error
    return torch.device(device)


def _open_upright(source: str) -> "Image.Image":
    """The image of a path or URL, turned upright."""
    is_url = source.startswith(("http://", "https://"))
    if not is_url and not Path(source).is_file():
        raise CommandError(f"IMAGE {source!r} is no file: pass the path or the http(s) URL of an image.")
    from .image_processing_groma import GromaImageProcessor
    from .processing_groma import open_image, upright_image_size

    with _errors_of(f"IMAGE {source!r}"):
        image = open_image(source, 0, GromaImageProcessor())
        upright_image_size(image, 0, None)
    return image


def _check_boxes(boxes: Sequence[Sequence[float]], image: "Image.Image") -> None:
    from .boxes import prepare_user_boxes

    with _errors_of("--box"):
        prepare_user_boxes([list(box) for box in boxes], image.height, image.width, name="--box")


def _checked_folder(folder: Path | None) -> Path | None:
    """A folder that can be written to, so that no answer is lost for the lack of one."""
    if folder is not None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CommandError(f"--output {str(folder)!r} cannot be made ({error.strerror}): pass another.") from error
        if not os.access(folder, os.W_OK):
            raise CommandError(f"--output {str(folder)!r} cannot be written to: pass another folder.")
    return folder


@contextmanager
def _errors_of(argument: str) -> Iterator[None]:
    """Errors that the package or the library words for the user become one line that starts with the argument."""
    try:
        yield
    except (ValueError, OSError) as error:
        raise CommandError(f"{argument}: {error}") from error


def _answer_lines(answer: "GroundedText") -> str:
    """An answer for a terminal: its text, and the boxes of each phrase."""
    lines = [answer.text]
    for phrase in answer.phrases:
        for region_id, box in zip(phrase.region_ids, phrase.boxes.tolist()):
            lines.append(f"  r{region_id:<3} {_numbers(box):<24} {phrase.text}".rstrip())
    if answer.unknown_region_ids:
        lines.append(f"  (regions that do not exist: {', '.join(f'r{index}' for index in answer.unknown_region_ids)})")
    return "\n".join(lines)


def _numbers(values: Sequence[float]) -> str:
    return " ".join(f"{value:5.0f}" for value in values)


def _printable(text: str) -> str:
    """The text without control characters, in what the terminal can show: a model may write anything."""
    text = "".join(character if character.isprintable() or character == "\n" else "\ufffd" for character in text)
    encoding = sys.stdout.encoding or "utf-8"
    return text.encode(encoding, "replace").decode(encoding)


def _one_line(text: object) -> str:
    return " ".join(str(text).split())


def _note(text: str) -> None:
    print(text, file=sys.stderr)


def _write_answer(
    folder: Path,
    name: str,
    answer: "GroundedText",
    image: "Image.Image",
    num_boxes: int = 0,
    notes: dict[str, Any] | None = None,
) -> None:
    # Of all regions only the user's own are outlined beside the phrases; they are the first.
    shown = replace(answer, regions=answer.regions[:num_boxes])
    _write_json(folder / f"{name}.json", {**answer.to_dict(), **(notes or {})})
    _write_png(folder / f"{name}.png", shown.draw(image, regions=True))


def _write_proposals(
    folder: Path, regions: list[dict[str, Any]], image: "Image.Image", name: str = "proposals"
) -> None:
    import torch

    from .visualization import draw_proposals

    boxes = torch.tensor([region["box_xyxy"] for region in regions]).reshape(-1, 4)
    scores = torch.tensor([region["score"] for region in regions])
    _write_json(folder / f"{name}.json", {"regions": regions})
    _write_png(folder / f"{name}.png", draw_proposals(image, boxes, scores))


def _write_json(path: Path, content: dict[str, Any]) -> None:
    write_file(path, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())


def _write_png(path: Path, image: "Image.Image") -> None:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    write_file(path, buffer.getvalue())


if __name__ == "__main__":
    sys.exit(main())
