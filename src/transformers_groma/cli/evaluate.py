"""`groma evaluate`: measures a model on a benchmark."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._output_errors import OutputError
from . import evaluate_zero_shot
from .arguments import (
    CommandError,
    CommandParser,
    add_command,
    add_model_arguments,
    checked_folder,
    errors_of,
    errors_of_loading,
    loading_options,
    natural,
    positive,
    share,
)
from .endpoint_arguments import add_endpoint_arguments
from .models import checked_device, checked_model, options_of
from .output import note

if TYPE_CHECKING:
    from ..evaluation.benchmark import Benchmark
    from ..evaluation.judge import Judge
    from ..evaluation.loading import NamedRows

# The names in `evaluation.loading.BENCHMARKS`, repeated so that `--help` need not import it.
BENCHMARKS = (
    *("rec", "lvis-ground", "region-caption", "grounded-caption", "detection"),
    *("referring-segmentation", "grounded-conversation", "phrase-grounding", "interactive-segmentation"),
    "llava-bench",
)
# The one with a parser of its own, and without a model that answers.
ZERO_SHOT = evaluate_zero_shot.NAME
# The one whose options `--help` shows as a separate group.
JUDGED = "llava-bench"
# The one that asks how alike phrases are.
COMPARING_PHRASES = "grounded-conversation"


def add_evaluate(commands: "argparse._SubParsersAction") -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "evaluate",
        run_evaluate,
        f"measure a model on a benchmark: {', '.join([*BENCHMARKS, ZERO_SHOT])}",
        "groma evaluate rec --model org/groma-7b --dataset data/refcoco@val --output results/refcoco-val\n"
        "         groma data shapes --task rec --rows 200 --seed 1 --split test --evaluation --output shapes-rec\n"
        "         groma evaluate rec --dataset shapes-rec --output results/shapes-rec --gallery 20\n"
        "         accelerate launch -m transformers_groma.cli evaluate lvis-ground --model org/groma-7b --dataset "
        "data/lvis_ground@val --output results/lvis\n"
        "         groma evaluate zero-shot --help",
    )
    _add_own_arguments(parser)
    _add_zero_shot(parser)


def _add_zero_shot(parser: CommandParser) -> None:
    """Add the benchmark with options of its own: a dual encoder is asked nothing."""
    own = CommandParser(
        prog=f"{parser.prog} {ZERO_SHOT}",
        description="Classify a dataset of labelled images without training, by WCA and what its paper compares it "
        "with, and print the table.",
        epilog="example: groma evaluate zero-shot --dataset data/pets --descriptions cupl_pets.json --published pets "
        "--output results/pets\n"
        "         groma evaluate zero-shot --dataset org/name@test --methods template,wca --views random,regions "
        "--model groma-7b --output results/name",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    evaluate_zero_shot.add_zero_shot_arguments(own)
    parser.parsers_of_words[ZERO_SHOT] = own
    ours, theirs = (set(each._option_string_actions) for each in (parser, own))
    own.options_elsewhere = dict.fromkeys(ours - theirs, f"is of the other benchmarks: leave it out for {ZERO_SHOT}")
    parser.options_elsewhere = dict.fromkeys(
        theirs - ours,
        f"is of {ZERO_SHOT}, which is written first: groma evaluate {ZERO_SHOT} …; other benchmarks lack it",
    )


def _add_own_arguments(parser: CommandParser) -> None:
    """Add the arguments of the benchmarks that ask a model."""
    parser.add_argument(
        "benchmark",
        metavar="BENCHMARK",
        choices=(*BENCHMARKS, ZERO_SHOT),
        help=f"{', '.join(BENCHMARKS)}; or {ZERO_SHOT}, which has options of its own: groma evaluate {ZERO_SHOT} "
        "--help",
    )
    parser.add_argument(
        "--dataset",
        metavar="PATH[@SPLIT]",
        required=True,
        help="folder with Parquet files, one file, or a Hub name; for llava-bench the folder of its published files",
    )
    parser.add_argument("--split", help="split of the dataset, if not given in PATH (default: test)")
    parser.add_argument(
        "--output",
        metavar="DIR",
        type=Path,
        required=True,
        help="output folder: predictions.jsonl, results.json, results.md, plots; an interrupted run resumes there",
    )
    add_model_arguments(parser)
    parser.add_argument(
        "--batch-size", metavar="N", type=positive(int), default=16, help="rows at a time (default: %(default)s)"
    )
    parser.add_argument("--limit", metavar="N", type=positive(int), help="the first N rows only")
    parser.add_argument(
        "--prompt-seed",
        metavar="N",
        type=natural,
        help="draw the wording of each question; by default rows keep their own, which is the standard one",
    )
    parser.add_argument(
        "--max-new-tokens", metavar="N", type=positive(int), help="maximum answer length (default: the benchmark's)"
    )
    parser.add_argument(
        "--box-score-threshold", metavar="X", type=share, help="regions need a higher score (default: the model's)"
    )
    parser.add_argument(
        "--nms-threshold",
        metavar="X",
        type=share,
        help="a region is dropped if it overlaps a better one by more (default: the model's)",
    )
    parser.add_argument(
        "--gallery", metavar="N", type=positive(int), default=0, help="draw the N worst answers to gallery.html"
    )
    parser.add_argument(
        "--protocol",
        metavar="NAME",
        help="another protocol than the usual one: glamm-release or glamm-paper for grounded-conversation, "
        "referring-segmentation and region-caption, given-caption for phrase-grounding",
    )
    parser.add_argument(
        "--text-encoder",
        metavar="MODEL",
        help="folder or Hub name of an encoder that says how alike phrases are, for grounded-conversation; GLaMM's "
        "evaluation uses bert-base-uncased (default: the F1 of their words)",
    )
    parser.add_argument("--card", metavar="MODEL_DIR", type=Path, help="write the metrics into the model card there")
    judge = parser.add_argument_group(JUDGED, "Without a judge there are answers but no metrics.")
    judge.add_argument("--images", metavar="DIR", type=Path, help="the photos of COCO val2014")
    judge.add_argument("--judge", metavar="MODEL", help="name of the judge model, which scores the answers")
    add_endpoint_arguments(judge, "the reviews")


def run_evaluate(arguments: argparse.Namespace) -> None:
    """`groma evaluate`: run a benchmark into a folder."""
    if arguments.benchmark == ZERO_SHOT:
        raise CommandError(f"{ZERO_SHOT} has options of its own, so it is written first: groma evaluate {ZERO_SHOT} …")
    options = loading_options(arguments)
    folder = checked_folder(arguments.output)
    if arguments.card is not None and not arguments.card.is_dir():
        raise CommandError(f"--card {str(arguments.card)!r} is not a folder: pass a model's folder.")
    try:
        from ..evaluation.answers import process_state
        from ..evaluation.loading import load_benchmark, load_model
        from ..evaluation.reports.card import add_results_to_card
        from ..evaluation.reports.report import REPORT_NAME, RESULTS_NAME
        from ..evaluation.runner import check_decodes_masks, evaluate
        from ..loading import load_config
    except ImportError as error:
        raise CommandError(
            f'{error}. Install what evaluation needs: pip install "transformers-groma[eval]".'
        ) from error

    with errors_of("--protocol"):
        benchmark = load_benchmark(arguments.benchmark, arguments.protocol)
    if arguments.text_encoder is not None and benchmark.with_similarity is None:
        raise CommandError(f"--text-encoder belongs to {COMPARING_PHRASES}: leave it out for {benchmark.name}.")
    for option, used_by in (("images", benchmark.read_published), ("judge", benchmark.review)):
        if getattr(arguments, option) is not None and used_by is None:
            raise CommandError(f"--{option} belongs to {JUDGED}: leave it out for {benchmark.name}.")
    model = checked_model(arguments.model, benchmark.model_types, revision=options.revision)
    options = options_of(options, arguments.model, model)
    if benchmark.needs_masks:
        with errors_of(f"--model {model!r}"):
            check_decodes_masks(load_config(model, options.revision), benchmark)
    rows = _rows(arguments, benchmark)
    dataset = rows.dataset
    notes: dict[str, Any] = {} if options.revision is None else {"revision": options.revision}
    if Path(rows.name).exists():
        notes["local_dataset"] = True  # `data/refcoco` is a folder, though it could be a name on the Hub
    if options.quantization is not None:
        notes["quantization"] = options.quantization
    if arguments.limit is not None and arguments.limit < len(dataset):
        dataset = dataset.select(range(arguments.limit))
        notes["limit"] = arguments.limit  # a part of a dataset does not compare with what others report for all of it
    if options.quantization is not None:
        notes["quantization"] = options.quantization
    judge, judge_errors = _judge(arguments)
    device = checked_device(arguments.device, options)
    state = process_state(device)
    where = state.device if arguments.device is None else device
    if arguments.text_encoder is not None:
        from ..evaluation.text_encoders import TextEncoder

        with errors_of(f"--text-encoder {arguments.text_encoder!r}"):
            encoder = TextEncoder(arguments.text_encoder, where)
        benchmark = benchmark.with_similarity(encoder, encoder.name)
    with errors_of(f"--model {model!r}"), errors_of_loading():
        loaded, processor = load_model(
            model,
            where,
            options,
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
            judge=judge,
            model_name=Path(model).name if arguments.model is None else model,
            dataset_name=rows.name,
            split=rows.split,
            notes=notes,
        )
    except OutputError:
        raise  # it names the output
    except (ValueError, OSError, *judge_errors) as error:
        raise CommandError(f"{benchmark.name}: {error}") from error
    if not state.is_main_process:
        return
    for metric in benchmark.metrics:
        if metric.name in results.metrics:
            print(f"{metric.name:28} {results.metrics[metric.name]:9.4f}")
    note(f"wrote {folder / RESULTS_NAME} and {folder / REPORT_NAME}")
    if arguments.card is not None:
        with errors_of(f"--card {str(arguments.card)!r}"):
            for path in add_results_to_card(arguments.card, folder / RESULTS_NAME):
                note(f"wrote {path}")


def _rows(arguments: argparse.Namespace, benchmark: "Benchmark") -> "NamedRows":
    """The rows of `--dataset`: ours, or with `--images` those of published files."""
    from ..evaluation.loading import load_benchmark_rows, load_published_rows

    with errors_of(f"--dataset {arguments.dataset!r}"):
        if arguments.images is None:
            return load_benchmark_rows(arguments.dataset, arguments.split)
        return load_published_rows(benchmark, arguments.dataset, arguments.images, arguments.split)


def _judge(arguments: argparse.Namespace) -> "tuple[Judge | None, tuple[type[Exception], ...]]":
    """The judge model, if one is named, and the errors that asking it may raise."""
    if arguments.judge is None:
        return None, ()
    try:
        from ..endpoints.client import EndpointError
        from ..evaluation.judge import judge_of
    except ImportError as error:
        raise CommandError(f"--judge {arguments.judge!r}: {error}") from error
    with errors_of("--judge"):
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
    return judge, (EndpointError,)
