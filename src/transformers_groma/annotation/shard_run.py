"""Annotates one shard: reads ahead in threads, keeps each batch in a journal, and writes the file when all are there.

A run that is killed loses one batch at most. The journal has the rows of each batch, what was left out, and how many
images of the source that makes; the next run goes on after them.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from .._files import write_file
from .._jsonl import JsonlLog
from .._run_ahead import run_ahead
from ..data.annotation_columns import ANNOTATION_FEATURES, ANNOTATION_SCHEMA
from ..data.left_out import LeftOut
from ..data.parquet import complete_parquet
from ..data.shard_files import report_json
from ..data.write_report import WriteReport
from .annotator import Annotator
from .output_folder import OutputFolder
from .prepared_images import PreparedImage, prepare_image
from .sources.source_images import SourceImage, SourceShard
from .tasks import AnnotationTasks

# Rows that a Parquet file is written by, however many the batches had.
_ROW_GROUP = 512
# Threads that decode images, and images that wait for the model, in batches.
_THREADS = min(4, os.cpu_count() or 1)
_BATCHES_AHEAD = 2


@dataclass(frozen=True)
class ShardJob:
    """A shard that is to be annotated, here or on another machine.

    Args:
        index (`int`): its number.
        shard (`SourceShard`): its images.
        output (`Path`): the output folder.
        num_shards (`int`): how many shards there are.
        seed (`int`, *optional*): makes sampled answers repeatable, whoever makes them.
    """

    index: int
    shard: SourceShard
    output: Path
    num_shards: int
    seed: int | None = None

    @property
    def folder(self) -> OutputFolder:
        """The output folder."""
        return OutputFolder(self.output, self.num_shards)


@dataclass
class _Progress:
    """What of a shard is done, as its journal says."""

    images: int = 0
    report: WriteReport = field(default_factory=WriteReport)
    left_out: list[list[str]] = field(default_factory=list)
    ids: set[str] = field(default_factory=set)

    def take(self, line: dict[str, Any]) -> None:
        """Count a batch."""
        self.images = line["images"]
        self.ids |= {row["image_id"] for row in line["rows"]}
        self.report.rows += len(line["rows"])
        for name, reason, detail in line["left_out"]:
            self.report.skip(name, reason, detail)
            self.left_out.append([name, reason, detail])
        for name, reason, detail in line["parts"]:
            self.report.leave_out(name, LeftOut(reason, detail))
        self.report.records = self.images


def run_shard(job: ShardJob, annotator: Callable[[], Annotator]) -> Iterator[int]:
    """Annotate a shard, from where an earlier run has stopped.

    Args:
        job (`ShardJob`): the shard.
        annotator (`Callable`): gives the model, loaded when it is first needed.

    Yields:
        `int`: how many images of the shard are done, first those of earlier runs.

    Raises:
        OutputError: something cannot be written, or another process is at this shard.
    """
    folder = job.folder
    journal = folder.journal(job.index)
    # Opening it locks it, and cuts off what a kill left of a line.
    log = JsonlLog(journal)
    try:
        progress = _Progress()
        for line in _lines(journal):
            progress.take(line)
        yield progress.images
        for line in _batches(job, progress, annotator):
            log.write(line)
            progress.take(line)
            yield progress.images
        _write_shard(job, journal, progress)
    finally:
        log.close()
    journal.unlink(missing_ok=True)


def _batches(job: ShardJob, done: _Progress, annotator: Callable[[], Annotator]) -> Iterator[dict[str, Any]]:
    """The remaining batches of a shard, as lines of its journal."""
    source = job.shard.images(done.images)
    first = next(source, None)
    if first is None:
        return
    model = annotator()
    prepare = partial(_prepare, image_processor=model.image_processor, tasks=model.tasks)
    batch: list[PreparedImage] = []
    left_out: list[list[str]] = []
    count = done.images
    ids = set(done.ids)
    for image, outcome in run_ahead(prepare, _chained(first, source), _BATCHES_AHEAD * model.batch_size, _THREADS):
        count += 1
        if isinstance(outcome, PreparedImage) and image.image_id in ids:
            outcome = LeftOut("an image of the same name came before")
        if isinstance(outcome, LeftOut):
            left_out.append([image.image_id, outcome.reason, outcome.detail])
            continue
        ids.add(image.image_id)
        batch.append(outcome)
        if len(batch) == model.batch_size:
            yield _line(job, model, batch, left_out, count)
            batch, left_out = [], []
    if batch or left_out:
        yield _line(job, model, batch, left_out, count)


def _prepare(
    image: SourceImage, image_processor: Any, tasks: AnnotationTasks
) -> tuple[SourceImage, PreparedImage | LeftOut]:
    outcome = prepare_image(image, image_processor, tasks)
    # The file itself is not needed any more, and may be large.
    return SourceImage(image.image_id, image.file_name, b""), outcome


def _line(
    job: ShardJob, model: Annotator, batch: list[PreparedImage], left_out: list[list[str]], count: int
) -> dict[str, Any]:
    if job.seed is not None:
        digest = hashlib.blake2b(f"{job.seed} {job.index} {count}".encode(), digest_size=7).digest()
        torch.manual_seed(int.from_bytes(digest, "big"))
    rows = model.annotate(batch) if batch else []
    parts = [[image.source.image_id, part.reason, part.detail] for image in batch for part in image.left_out]
    return {"images": count, "rows": [row.to_row() for row in rows], "left_out": left_out, "parts": parts}


def _write_shard(job: ShardJob, journal: Path, progress: _Progress) -> None:
    """Write the rows of a journal as Parquet, and the report of the shard."""
    folder = job.folder

    def write_notes(digest: str) -> None:
        text = report_json(progress.report, parquet=digest, left_out=progress.left_out)
        write_file(folder.report_path(job.index), text.encode())

    with complete_parquet(folder.shard(job.index), ANNOTATION_FEATURES, write_notes) as writer:
        rows: list[dict[str, Any]] = []
        for line in _lines(journal):
            rows += line["rows"]
            while len(rows) >= _ROW_GROUP:
                writer.write_table(pa.Table.from_pylist(rows[:_ROW_GROUP], schema=ANNOTATION_SCHEMA))
                rows = rows[_ROW_GROUP:]
        # Also without rows: then the file says so.
        writer.write_table(pa.Table.from_pylist(rows, schema=ANNOTATION_SCHEMA))


def _lines(journal: Path) -> Iterator[dict[str, Any]]:
    # Line by line: masks of a whole shard need not fit into memory.
    with journal.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield json.loads(line)
            except ValueError as error:
                raise ValueError(
                    f"{journal} is damaged in line {number} ({error}). Delete it: its shard begins again."
                ) from error


def _chained(first: SourceImage, others: Iterator[SourceImage]) -> Iterator[SourceImage]:
    yield first
    yield from others


__all__ = ["ShardJob", "run_shard"]
