"""Groma Instruct: a vision model writes grounded conversations about marked images (paper section 4).

- select: images of Visual Genome with a COCO id and 3 to 10 regions, with their descriptions, questions and captions.
- query: a vision model writes a conversation about each; it sees the image with a number on each region.
- parse: the answers become groma_instruct.json in the layout that the authors released, and a dataset with the columns
  of this package.
- all: the three of them.

From https://homes.cs.washington.edu/~ranjay/visualgenome/api.html get both parts of the images (folders VG_100K and
VG_100K_2), image_data.json, region_descriptions.json and question_answers.json; from https://cocodataset.org/#download
annotations_trainval2017.zip.

python -m processing.groma_instruct select --images vg --output data/groma_instruct --image-data image_data.json \\
    --region-descriptions region_descriptions.json --question-answers question_answers.json \\
    --captions captions_train2017.json captions_val2017.json
python -m processing.groma_instruct query --images vg --output data/groma_instruct --model gpt-4o --limit 100 \\
    --price-in 2.5 --price-out 10 --max-cost 5
python -m processing.groma_instruct parse --images vg --output data/groma_instruct

Every step resumes: `select` keeps a selection that is there, `query` asks for what is missing only, `parse` keeps
finished shards as long as the answers are the same. Exit status: 0 done, 1 something is missing (run again), 2 options
or files are wrong, 130 interrupted.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from processing.common import add_preview_option, write_preview
from processing.endpoint_options import add_endpoint_options, at_least, budget_of, endpoint_of
from processing.groma_instruct import files
from processing.groma_instruct.answers import current_answers
from processing.groma_instruct.parse import parse_answers
from processing.groma_instruct.selection import SelectedImage, select_images
from processing.groma_instruct_dataset import convert
from transformers_groma._files import write_file
from transformers_groma._jsonl import read_jsonl, write_jsonl
from transformers_groma._locks import one_writer
from transformers_groma.data.shards import write_dataset

SOURCE = "groma_instruct"
MAX_EXAMPLES = 20


def run_select(args: argparse.Namespace) -> int:
    """Write `selection.jsonl` and its report, unless they are there."""
    path = args.output / files.SELECTION
    if path.exists() and not args.overwrite:
        _say(f"select: {path} exists and is kept; `--overwrite` replaces it")
        return 0
    selection, report = select_images(
        args.image_data, args.region_descriptions, args.question_answers, args.captions, args.images
    )
    files.write_json(
        args.output / files.SELECTION_REPORT,
        {
            "images": report.records,
            "selected": report.rows,
            "skipped": report.skipped,
            "parts": report.parts,
            "examples": report.examples,
        },
    )
    write_jsonl(path, selection)
    for line in report.told():
        _say(f"select: {line}")
    _say(f"select: {report.summary()}")
    if not selection:
        _say(f"error: no image was selected; the reasons are in {args.output / files.SELECTION_REPORT}")
        return 1
    return 0


def run_query(args: argparse.Namespace) -> int:
    """Ask for the answers that are missing."""
    # Only here: the other steps need no client.
    from processing.groma_instruct.query import query_images
    from transformers_groma.endpoints.client import EndpointError

    endpoint = endpoint_of(args)
    try:
        report = query_images(
            _read_selection(args)[: args.limit],
            args.images,
            args.output,
            endpoint,
            concurrency=args.concurrency,
            requests_per_minute=args.requests_per_minute,
            budget=budget_of(args),
        )
    except EndpointError as error:
        _say(f"error: {error}")
        return 2
    _say(f"query: {report.summary('images')}")
    if report.failed:
        _say(f"query: the reasons are in {args.output / files.FAILURES}; run again to ask for what is missing")
    return 1 if report.failed or report.stopped else 0


def run_parse(args: argparse.Namespace) -> int:
    """Write `groma_instruct.json`, what was rejected, and the dataset."""
    selection = _read_selection(args)
    answers = read_jsonl(args.output / files.ANSWERS)
    if not answers:
        _say(f"error: {args.output / files.ANSWERS} holds no answers; run the step `query`")
        return 1
    current = current_answers(answers, selection)
    records, rejected = parse_answers(current, selection)
    reasons = Counter(entry["reason"] for entry in rejected)
    write_jsonl(args.output / files.REJECTED, rejected)
    files.write_json(
        args.output / files.PARSE_REPORT,
        {
            "answers": len(current),
            "conversations": len(records),
            "rejected": dict(reasons.most_common()),
            "examples": [[entry["image_id"], entry["reason"]] for entry in rejected[:MAX_EXAMPLES]],
            # Of images, or of choices of regions, that are not in the selection any more.
            "outdated_answers": len({answer["image_id"] for answer in answers} - set(current)),
        },
    )
    told = ", ".join(f"{reason} ({count})" for reason, count in reasons.most_common())
    _say(
        f"parse: {len(records)} conversations from {len(current)} answers; rejected {len(rejected)}: {told or 'none'}"
    )
    dataset = args.output / files.DATASET
    released = json.dumps(records).encode()
    path = args.output / files.RELEASED
    if not path.exists() or path.read_bytes() != released:
        # Shards of other answers go first: whatever a kill leaves behind, shards fit the JSON.
        for shard in dataset.glob("train-*-of-*.*"):
            shard.unlink()
        write_file(path, released)
    if not records:
        _say(f"error: no answer is usable; see {args.output / files.REJECTED}")
        return 1
    report = write_dataset(
        records,
        partial(convert, images=args.images, source=SOURCE),
        schema="conversation",
        output_dir=dataset,
        num_shards=args.shards,
        overwrite=args.overwrite,
        record_name=lambda record: record["file_name"],
        options={"--images": args.images, "source": SOURCE},
    )
    write_preview(argparse.Namespace(preview=args.preview, split="train", shard=None, output=dataset), report)
    return 0 if report.rows else 1


def run_all(args: argparse.Namespace) -> int:
    """The three steps; answers that are there are parsed even where some are missing."""
    status = run_select(args)
    if status == 0:
        status = run_query(args)
        if status < 2:
            status = max(status, run_parse(args))
    return status


def main(argv: Sequence[str] | None = None) -> int:
    """Run the steps with `argv`, by default those of the command line; the exit status."""
    args = _parser().parse_args(argv)
    try:
        if not args.images.is_dir():
            raise ValueError(f"--images {args.images} is not a folder.")
        with one_writer(args.output, "groma_instruct"):
            return args.run(args)
    except (OSError, ValueError, ImportError) as error:
        _say(f"error: {error}")
        return 2
    except KeyboardInterrupt:
        _say("interrupted: what is done is kept, run again to resume")
        return 130


def _parser() -> argparse.ArgumentParser:
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--images", type=Path, required=True, metavar="DIR", help="folder of VG_100K and VG_100K_2")
    shared.add_argument("--output", type=Path, required=True, metavar="DIR", help="work folder of all steps")
    overwrite = argparse.ArgumentParser(add_help=False)
    overwrite.add_argument(
        "--overwrite", action="store_true", help="replace the selection and the shards; answers are always kept"
    )
    select, query, parse = (argparse.ArgumentParser(add_help=False) for _ in range(3))

    select.add_argument("--image-data", type=Path, required=True, metavar="FILE", help="image_data.json")
    select.add_argument("--region-descriptions", type=Path, required=True, metavar="FILE")
    select.add_argument("--question-answers", type=Path, required=True, metavar="FILE")
    select.add_argument(
        "--captions", type=Path, required=True, nargs="+", metavar="FILE", help="captions_*.json of COCO"
    )

    query.add_argument("--model", required=True, help="name of a model that sees images")
    query.add_argument(
        "--limit", type=at_least(1, int), metavar="N", help="ask about the first N selected images only"
    )
    add_endpoint_options(query, {"max_completion_tokens": 4096})

    parse.add_argument(
        "--shards", type=at_least(1, int), default=1, metavar="N", help="number of Parquet files (default: 1)"
    )
    add_preview_option(parse)

    parser = argparse.ArgumentParser(
        prog="python -m processing.groma_instruct",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    steps = parser.add_subparsers(required=True, metavar="STEP")
    for name, run, parents, text in (
        ("select", run_select, [shared, overwrite, select], "choose images and regions"),
        ("query", run_query, [shared, query], "ask a vision model about them"),
        ("parse", run_parse, [shared, overwrite, parse], "make a dataset of the answers"),
        ("all", run_all, [shared, overwrite, select, query, parse], "all steps"),
    ):
        steps.add_parser(name, parents=parents, help=text, description=text).set_defaults(run=run)
    return parser


def _read_selection(args: argparse.Namespace) -> list[SelectedImage]:
    path = args.output / files.SELECTION
    if not path.exists():
        raise ValueError(f"{path} is missing. Run the step `select` first.")
    return read_jsonl(path)


def _say(message: str) -> None:
    print(message, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
