"""Runs a step over the shards of a work folder: rows that are there and right stay, all others are made.

A step is restartable at any time. Its shard is saved once a minute and at its end; rows whose sources have changed,
and images that were left out, are tried again on the next run; settings that have changed are an error, because their
rows must not be mixed with others.
"""

import importlib
import json
import sys
import time
from argparse import ArgumentParser, ArgumentTypeError, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Features
from tqdm.auto import tqdm

from processing.common import positive_int
from processing.grand.work_folder import (
    INDEX,
    KEY,
    MADE_FROM,
    Row,
    digest_of_row,
    finished_rows,
    folders_of,
    number_of_rows,
    number_of_shards,
    read_shard,
    shard_of,
    shard_path,
    write_shard,
)
from transformers_groma._locks import one_writer
from transformers_groma.data.left_out import SkipRecord
from transformers_groma.data.parquet import check_shard
from transformers_groma.data.provenance import digests_of_options, named_as_options
from transformers_groma.data.ray_actors import ActorOptions, run_on_actors
from transformers_groma.data.shard_files import parse_report, report_json
from transformers_groma.data.write_report import WriteReport

# Options that do not change a row.
JOB_OPTIONS = (
    *("images", "work", "name", "overwrite", "shard", "engine", "workers", "gpus_per_worker", "device", "batch_size"),
    *("base_url", "api_key_env", "concurrency", "requests_per_minute", "timeout", "max_retries"),
    *("price_in", "price_out", "max_cost", "shards", "limit"),
)
# Rows that a worker gets at once, and the seconds after which a shard is saved although it has more to come.
CHUNK = 64
SAVE_SECONDS = 60.0

# Beside the columns of a row: `LeftOut` for each part of it that is not there, for the report.
PARTS = "parts that are left out"

# Makes the columns of rows, in their order; `SkipRecord` in the place of a row that is left out.
Worker = Callable[[Sequence[Row]], Iterable[Row | SkipRecord]]


class NoAnswer(SkipRecord):
    """A model was not asked, or did not answer: another run may get the row."""


@dataclass(frozen=True)
class Step:
    """A step of the pipeline.

    Args:
        name (`str`): its name, which is that of its module and of its folder.
        level (`int`): GranD's level that it belongs to; 0 for what is not annotation.
        does (`str`): what it does, in one line.
        features (`Features`): its columns.
        make_worker (`Callable[[Namespace], Worker]`): loads its model, if it has one.
        add_options (`Callable[[ArgumentParser], None]`): adds its own options.
        needs (`tuple[str, ...]`): steps whose rows it is made from; an image without them is left out.
        reads (`tuple[str, ...]`): steps whose rows it is made from too, where they have run.
        named (`bool`): whether it runs several times, under different names, such as once for each detector.
        files (`tuple[Path, ...]`): files of the program that its rows depend on, such as prompts.
        version (`int`): raise it where the same sources become other rows.
        sources (`Callable[[Namespace], Mapping[str, Row]]`, *optional*): for the first step, what rows are made from,
            by image id.
        after (`Callable[[Namespace], None]`, *optional*): called when all shards are written.
    """

    name: str
    level: int
    does: str
    features: Features
    make_worker: Callable[[Namespace], Worker]
    add_options: Callable[[ArgumentParser], None] = lambda parser: None
    needs: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    named: bool = False
    files: tuple[Path, ...] = ()
    version: int = 1
    sources: Callable[[Namespace], Mapping[str, Row]] | None = None
    after: Callable[[Namespace], None] | None = None

    def folder(self, args: Namespace) -> str:
        """The folder of its shards in the work folder."""
        return f"{self.name}.{args.name}" if self.named else self.name


def step_parser(step: Step, description: str | None) -> ArgumentParser:
    """The command line of a step.

    Args:
        step (`Step`): the step.
        description (`str`): the docstring of its module, shown by `--help`.

    Returns:
        `ArgumentParser`
    """
    parser = ArgumentParser(
        prog=f"python -m processing.grand.{step.name}",
        description=description,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("images", type=Path, metavar="IMAGES", help="folder of the images")
    parser.add_argument("work", type=Path, metavar="WORK", help="work folder of all steps")
    if step.named:
        parser.add_argument(
            "--name", type=_plain_name, required=True, help="names this run: its rows are in WORK/STEP.NAME"
        )
    step.add_options(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace rows of other settings")
    parser.add_argument("--shard", type=int, metavar="K", help="make shard K only, as one job of an array")
    parser.add_argument(
        "--engine",
        choices=("plain", "ray"),
        default="plain",
        help='plain: one shard after the other; ray: Ray Data, needs `pip install "transformers-groma[data]"`',
    )
    parser.add_argument(
        "--workers", type=positive_int, default=1, metavar="N", help="with ray: shards at a time (default: 1)"
    )
    parser.add_argument(
        "--gpus-per-worker", type=float, default=0.0, metavar="X", help="with ray: GPUs of a worker (default: 0)"
    )
    return parser


def step_main(step: Step, description: str, argv: Sequence[str] | None = None) -> int:
    """Run a step from the command line.

    Args:
        step (`Step`): the step.
        description (`str`): the docstring of its module.
        argv (`Sequence[str]`, *optional*): by default the arguments of the command line.

    Returns:
        `int`: 0 done, 1 no row or answers are missing (run again), 2 options or files are wrong, 130 interrupted.
    """
    args = step_parser(step, description).parse_args(argv)
    try:
        if not args.images.is_dir():
            raise ValueError(f"IMAGES, {args.images}, is not a folder.")
        report, is_complete = run_step(step, args)
    except (OSError, ValueError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{step.name}: interrupted; what was saved stays, run again to resume", file=sys.stderr)
        return 130
    for line in report.told():
        print(f"{step.folder(args)}: {line}", file=sys.stderr)
    print(f"{step.folder(args)}: {report.summary()}", file=sys.stderr)
    return 0 if report.rows and is_complete else 1


def run_step(step: Step, args: Namespace) -> tuple[WriteReport, bool]:
    """Make the rows of a step that are missing.

    Args:
        step (`Step`): the step.
        args (`Namespace`): options of its [`step_parser`].

    Returns:
        `tuple`: the report of all shards asked for, and whether every question was answered.

    Raises:
        ValueError: a step before it has not run, or wrong options.
        FileExistsError: rows of other settings are there, and `--overwrite` was not given.
    """
    num_shards = number_of_shards(args.work)
    check_shard(args.shard, num_shards)
    if args.engine == "ray" and getattr(args, "task", None) == "endpoint":
        raise ValueError(
            "--engine ray does not go with --task endpoint: one process asks an endpoint, with --concurrency requests "
            "at a time. Leave --engine out."
        )
    for needed in step.needs:
        if not folders_of(args.work, needed):
            raise ValueError(f"{args.work} has no rows of the step `{needed}`. Run it before `{step.name}`.")
    shards = range(num_shards) if args.shard is None else [args.shard]
    folder = step.folder(args)
    with one_writer(args.work / folder, "grand", None if args.shard is None else f"{args.shard:05d}"):
        # Before a model is loaded.
        if not args.overwrite:
            for shard in shards:
                path = shard_path(args.work, folder, shard, num_shards)
                if (different := finished_rows(path, settings_of(step, args))[1]) is not None:
                    raise FileExistsError(
                        f"{path} was made with other settings; what differs: {different}. Pass --overwrite to replace "
                        "it, or another work folder."
                    )
        run = _run_with_ray if args.engine == "ray" else _run_here
        outcomes = list(run(step, args, list(shards)))
        if step.after is not None:
            step.after(args)
    return WriteReport.total(report for report, _ in outcomes), all(is_complete for _, is_complete in outcomes)


def settings_of(step: Step, args: Namespace) -> dict[str, str]:
    """A digest of each setting that the rows of a step depend on, by the name of its option."""
    options = {name: value for name, value in vars(args).items() if name not in JOB_OPTIONS}
    of_program = {"version of the step": step.version, **{path.name: path for path in step.files}}
    return digests_of_options({**of_program, **named_as_options(options)}, args.work)


def merged_rows(step: Step, args: Namespace, shard: int, num_shards: int) -> dict[str, Row]:
    """What a step makes the rows of a shard from: by image id, the columns of the steps that it needs or reads.

    Columns of a step that ran under several names are by these names; `None` is for what is missing.
    """
    if step.sources is not None:
        return {name: row for name, row in step.sources(args).items() if shard_of(name, num_shards) == shard}
    work = args.work
    index = read_shard(shard_path(work, INDEX, shard, num_shards))
    rows: dict[str, Row] = {image_id: {INDEX: row} for image_id, row in index.items()}
    for source in (*step.needs, *step.reads):
        if source == INDEX:
            continue
        found = {name: read_shard(shard_path(work, name, shard, num_shards)) for name in folders_of(work, source)}
        for image_id, row in rows.items():
            if list(found) == [source]:
                row[source] = found[source].get(image_id)
            else:
                row[source] = {name.removeprefix(f"{source}."): found[name].get(image_id) for name in found} or None
    return rows


def _missing(step: Step, row: Row) -> str | None:
    """The first source that an image lacks."""
    for source in step.needs:
        value = row[source]
        if value is None:
            return source
        if KEY not in value:  # by name
            lacking = [name for name, columns in value.items() if columns is None]
            if lacking:
                return f"{source}.{lacking[0]}"
    return None


class _ShardRun:
    """Makes the rows of one shard that are missing, and saves it."""

    def __init__(self, step: Step, args: Namespace, shard: int) -> None:
        self._step, self._num_shards = step, number_of_shards(args.work)
        self.path = shard_path(args.work, step.folder(args), shard, self._num_shards)
        self._settings = settings_of(step, args)
        rows = merged_rows(step, args, shard, self._num_shards)
        digests = {image_id: digest_of_row(row) for image_id, row in rows.items()}
        before, _ = finished_rows(self.path, self._settings)
        self._kept = {image_id: row for image_id, row in before.items() if row[MADE_FROM] == digests.get(image_id)}
        # Rows of other settings or of images that are gone, a file that was cut, or none: it is written in any case.
        self._is_stale = not before or len(self._kept) < len(before)
        self._rows, self._digests = rows, digests
        self._report = WriteReport(records=len(rows))
        self._is_complete = True
        self._is_changed = False

    def run(self, worker: Worker, update: Callable[[int], Any]) -> tuple[WriteReport, bool]:
        todo: list[str] = []
        update(len(self._kept))
        for image_id in self._rows:
            if image_id in self._kept:
                continue
            if (lacking := _missing(self._step, self._rows[image_id])) is not None:
                self._report.skip(image_id, f"no row of the step `{lacking}`")
                update(1)
            else:
                todo.append(image_id)
        saved = time.monotonic()
        try:
            for start in range(0, len(todo), CHUNK):
                chunk = todo[start : start + CHUNK]
                outcomes = worker([self._rows[image_id] for image_id in chunk])
                for image_id, outcome in zip(chunk, outcomes, strict=True):
                    self._take(image_id, outcome)
                    update(1)
                    if time.monotonic() - saved > SAVE_SECONDS:
                        self._save()
                        saved = time.monotonic()
        except BaseException:
            # After an error or an interrupt, too: what is done is done. Where nothing is, the file stays as it was: a
            # model that cannot be loaded must not cost rows that `--overwrite` would replace.
            if self._is_changed:
                self._save()
            raise
        if todo or self._is_stale:
            self._save()
        self._report.rows, self._report.files = len(self._kept), [self.path]
        return self._report, self._is_complete

    def _take(self, image_id: str, outcome: Row | SkipRecord) -> None:
        if isinstance(outcome, SkipRecord):
            self._report.skip(image_id, outcome.reason, outcome.detail)
            self._is_complete &= not isinstance(outcome, NoAnswer)
        else:
            for part in outcome.pop(PARTS, ()):
                self._report.leave_out(image_id, part)
            self._is_changed = True
            self._kept[image_id] = {KEY: image_id, **outcome, MADE_FROM: self._digests[image_id]}

    def _save(self) -> None:
        self._report.rows = len(self._kept)
        # In the order of the index, however often it was interrupted.
        rows = [self._kept[image_id] for image_id in self._rows if image_id in self._kept]
        write_shard(self.path, rows, self._step.features, self._report, self._settings)


def _run_here(step: Step, args: Namespace, shards: Sequence[int]) -> Iterator[tuple[WriteReport, bool]]:
    worker = _LazyWorker(step, args)
    indices = [shard_path(args.work, INDEX, shard, number_of_shards(args.work)) for shard in shards]
    # The first step makes the index, so it can't know.
    total = None if step.sources is not None else sum(map(number_of_rows, indices))
    with tqdm(total=total, desc=step.folder(args), unit="image") as progress:
        for shard in shards:
            yield _ShardRun(step, args, shard).run(worker, progress.update)


def _run_with_ray(step: Step, args: Namespace, shards: Sequence[int]) -> Iterator[tuple[WriteReport, bool]]:
    options = ActorOptions(min(args.workers, len(shards)), gpus=args.gpus_per_worker)
    with tqdm(total=len(shards), desc=step.folder(args), unit="shard") as progress:
        for _, outcome in run_on_actors(partial(_make_worker_of_ray, step.name, args), shards, options, extra="data"):
            path, report, is_complete = outcome
            progress.update(1)
            yield parse_report(Path(path), json.loads(report)), is_complete


def _make_worker_of_ray(name: str, args: Namespace) -> Callable[[int], Iterator[tuple[str, str, bool]]]:
    """What an actor of Ray does with a shard: its model is loaded once and makes many."""
    step = importlib.import_module(f"processing.grand.{name}").STEP
    worker = _LazyWorker(step, args)

    def make_shard(shard: int) -> Iterator[tuple[str, str, bool]]:
        run = _ShardRun(step, args, shard)
        report, is_complete = run.run(worker, lambda count: None)
        yield str(run.path), report_json(report), is_complete

    return make_shard


class _LazyWorker:
    """A worker whose model is loaded when it has something to do."""

    def __init__(self, step: Step, args: Namespace) -> None:
        self._step, self._args = step, args
        self._worker: Worker | None = None

    def __call__(self, rows: Sequence[Row]) -> Iterable[Row | SkipRecord]:
        if self._worker is None:
            self._worker = self._step.make_worker(self._args)
        return self._worker(rows)


def _plain_name(text: str) -> str:
    if not text or not all(character.isascii() and (character.isalnum() or character in "-_") for character in text):
        raise ArgumentTypeError(f"must be a name of letters, digits, hyphens and underscores, got {text!r}")
    return text


__all__ = [
    "CHUNK",
    "PARTS",
    "NoAnswer",
    "Step",
    "Worker",
    "merged_rows",
    "run_step",
    "settings_of",
    "step_main",
    "step_parser",
]
