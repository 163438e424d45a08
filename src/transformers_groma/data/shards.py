"""Writes a dataset as Parquet shards: bad records are skipped with a reason, interrupted jobs resume.

Shard `k` of `n` holds `records[k::n]`, whichever engine writes it, and beside it is a report of what was skipped and
of what the shard was made of. It is finished, and left alone, only if all of that is the same: options, records, and
the files that were read for it. Anything else is an error that names what differs; nothing is mixed, and nothing is
replaced unless that is wanted. Records that were left out are tried again, so that images that turn up later get into
their shard. A record is one unit of the source (usually an image with its annotations); it becomes zero or more rows.
"""

import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from tqdm.auto import tqdm

from .._files import write_file
from .._locks import one_writer
from .columns import FEATURES, OPTIONAL_FEATURES, Schema, check_row, features_of
from .left_out import DATA_ERRORS, LeftOut, SkipRecord, reason_of
from .parquet import check_shard, complete_parquet, footer_digest, read_notes
from .provenance import changed_input, digest_of, digests_of_options, note_inputs, noted_inputs, relative_states
from .ray_actors import ActorOptions, EngineName, run_on_actors
from .shard_files import (
    difference,
    files_of_other_datasets,
    files_of_split,
    inputs_path,
    move_shard,
    overwrite_folder,
    parse_report,
    remove_leftovers,
    remove_shard,
    report_json,
    report_path,
    rowless_report_path,
    shard_name,
    write_inputs,
)
from .write_report import WriteReport

Record = TypeVar("Record")

# Of this module. Raise it where the same records become other rows: shards of another version are not taken for
# finished.
ROWS_VERSION = 1


def write_dataset(
    records: Sequence[Record],
    convert: Callable[[Record], Iterable[dict[str, Any]]],
    *,
    schema: Schema,
    output_dir: str | os.PathLike,
    split: str = "train",
    num_shards: int = 1,
    shard: int | None = None,
    engine: EngineName = "plain",
    num_workers: int | None = None,
    overwrite: bool = False,
    record_name: Callable[[Record], str] = str,
    options: Mapping[str, Any] | None = None,
) -> WriteReport:
    """Convert records and write them as `{split}-{k:05d}-of-{n:05d}.parquet`, each with a `.report.json` beside it.

    A shard is written under another name and renamed when it is whole; one without a row is not kept. Finished shards
    are left alone, so that an interrupted job resumes when it is started again. They must be made of the same
    `options`, `records` and files. Of files that `convert` reads with `read_image_bytes` (or notes with
    `provenance.note_input`), size and time are compared, and the content where these differ. Records that were left
    out are tried again, and their shard is written again if one of them has rows now. The files do not depend on the
    engine.

    Args:
        records (`Sequence`): what `convert` reads, in an order that is the same in every run.
        convert (`Callable`): makes the rows of one record: dicts with exactly the columns of the schema, boxes `xyxy`
            in absolute pixels of the upright image, the image as `{"bytes": ..., "path": ...}`, as a PIL image (stored
            as PNG) or `None`. All rows of a dataset have the same optional columns (`columns.OPTIONAL_FEATURES`).
            Among the rows may be `LeftOut`, for parts of the record that are left out. It must give the same rows
            every time. `SkipRecord`, `OSError`, `LookupError`, `ValueError`, `TypeError` or `ArithmeticError` skip the
            record, and so does a row that fails `columns.check_row`; other errors stop the job.
        schema (`str`): `"detection"`, `"conversation"` or `"evaluation"`.
        output_dir (`str` or `Path`): folder of the files, made if needed. `load_dataset(folder)` reads it.
        split (`str`): name of the split.
        num_shards (`int`): number of files.
        shard (`int`, *optional*): write this one only, for array jobs; by default all of them.
        engine (`str`): `"plain"` writes one shard after the other in this process; `"ray"` spreads them over a Ray
            cluster, whose machines must all see `output_dir` and the images.
        num_workers (`int`, *optional*): with Ray, the most shards written at the same time; by default as many as
            there are CPUs.
        overwrite (`bool`): replace the files of this split. The old ones stay until all new ones are there, and if
            there is not a single new row; with `shard` those of other options or records go at once, as other jobs
            write theirs.
        record_name (`Callable`): names a record in the report.
        options (`Mapping`, *optional*): by name, what rows depend on beside the records. Paths of files count by their
            content.

    Returns:
        `WriteReport`: of all shards asked for, those finished earlier included.

    Raises:
        ValueError: a wrong argument, or rows that have other columns than the schema.
        FileExistsError: the folder holds files of this split that were made of something else.
        OutputError: the folder cannot be written, or another process is writing the same.
        ImportError: Ray is asked for and not installed.

    Example:
    >>> import tempfile
    >>> from transformers_groma.data.columns import text_part
    >>> def convert(record):
    ...     if not record["answer"]:
    ...         raise SkipRecord("no answer")
    ...     messages = [
    ...         {"role": "user", "content": [text_part(record["question"])]},
    ...         {"role": "assistant", "content": [text_part(record["answer"])]},
    ...     ]
    ...     yield {"image": None, "image_id": "", "boxes_xyxy": [], "messages": messages, "source": "chat"}
    >>> records = [{"question": "Hello?", "answer": "Hello!"}, {"question": "And?", "answer": ""}]
    >>> report = write_dataset(records, convert, schema="conversation", output_dir=tempfile.mkdtemp())
    >>> report.summary(), report.files[0].name
    ('1 rows from 2 records; skipped 1: no answer (1)', 'train-00000-of-00001.parquet')
    """
    _check_arguments(schema, split, num_shards, shard, engine, num_workers)
    output_dir = Path(output_dir)
    made_of = {
        **digests_of_options({"schema": schema, "version of rows": ROWS_VERSION, **(options or {})}, output_dir),
        "records": digest_of(records),
    }
    shards = range(num_shards) if shard is None else [shard]

    def write(folder: Path, again: bool) -> list[WriteReport]:
        jobs = {
            index: _ShardJob(
                path=folder / shard_name(split, index, num_shards),
                records=records[index::num_shards],
                convert=convert,
                schema=schema,
                record_name=record_name,
                made_of=made_of,
                output_dir=output_dir,
            )
            for index in shards
        }
        reports = {} if again else {index: report for index, job in jobs.items() if (report := _finished(job))}
        pending = {index: job for index, job in jobs.items() if index not in reports}
        total = sum(len(job.records) for job in pending.values())
        description = f"{split} ({len(pending)} of {num_shards} shards)"
        with tqdm(total=total, desc=description, unit="record") as progress:
            if engine == "plain":
                written = [_write_shard(job, progress.update) for job in pending.values()]
            else:
                written = _write_with_ray(list(pending.values()), num_workers, progress.update)
        reports |= dict(zip(pending, written, strict=True))
        return [reports[index] for index in shards]

    # Several jobs may write one shard each; a job for all shards is alone.
    with one_writer(output_dir, split, None if shard is None else f"{shard:05d}"):
        if shard is None:
            remove_leftovers(output_dir, split)
        stale = files_of_other_datasets(output_dir, split, num_shards, made_of)
        if stale and not overwrite:
            raise FileExistsError(difference(stale[0], num_shards, made_of))
        if overwrite and shard is None and files_of_split(output_dir, split):
            report = _replace_all(output_dir, split, write)
        else:
            for path in stale:
                remove_shard(path)
            report = WriteReport.total(write(output_dir, again=overwrite))
    for line in report.told():
        print(f"{split}: {line}", file=sys.stderr)
    print(f"{split}: {report.summary()}", file=sys.stderr)
    return report


@dataclass(frozen=True)
class _ShardJob:
    """All that is needed to write one shard, here or on another machine."""

    path: Path
    records: Sequence[Any]
    convert: Callable[[Any], Iterable[dict[str, Any]]]
    schema: Schema
    record_name: Callable[[Any], str]
    made_of: Mapping[str, str]
    # Where the dataset will be; paths of other files are noted from there.
    output_dir: Path


def _write_shard(job: _ShardJob, update: Callable[[int], Any] = lambda count: None) -> WriteReport:
    report = WriteReport(records=len(job.records))
    skipped: list[int] = []
    with noted_inputs() as noted:
        rows = _convert_all(job, report, skipped, update)
        # Rows are converted as they are written. The first one says which optional columns there are.
        first = next(rows, None)
        if first is None:
            remove_shard(job.path)
            write_file(rowless_report_path(job.path), report_json(report).encode())
            return report
        features = features_of(first, job.schema)

        def write_notes(digest: str) -> None:
            inputs = write_inputs(job.path, skipped, relative_states(noted, job.output_dir))
            text = report_json(report, made_of=dict(job.made_of), parquet=digest, inputs=inputs)
            write_file(report_path(job.path), text.encode())

        with complete_parquet(job.path, features, write_notes) as writer:
            for row in chain([first], rows):
                if set(row) != set(features):
                    raise _wrong_columns(row, features, job.schema)
                writer.write(features.encode_example(row))
                report.rows += 1
    rowless_report_path(job.path).unlink(missing_ok=True)
    report.files = [job.path]
    return report


def _convert_all(
    job: _ShardJob, report: WriteReport, skipped: list[int], update: Callable[[int], Any]
) -> Iterator[dict[str, Any]]:
    """Rows of the good records of a job; the others are counted in the report, and their positions noted."""
    for position, record in enumerate(job.records):
        parts: list[LeftOut] = []
        rows: list[dict[str, Any]] = []
        try:
            rows = _rows_of(job, record, parts)
        except _WrongColumns:
            raise
        except (SkipRecord, *DATA_ERRORS) as error:
            why = reason_of(error)
            report.skip(job.record_name(record), why.reason, why.detail)
            skipped.append(position)
        for part in parts:
            report.leave_out(job.record_name(record), part)
        yield from rows
        update(1)


def _rows_of(job: _ShardJob, record: Any, parts: list[LeftOut]) -> list[dict[str, Any]]:
    """Rows of a record; parts that are left out are added to `parts`, even if no rows remain."""
    rows = []
    with noted_inputs() as noted:
        for item in job.convert(record):
            (parts if isinstance(item, LeftOut) else rows).append(item)
    for row in rows:
        _check_columns(row, job.schema)
        check_row(row, job.schema)
    if not rows:
        raise SkipRecord("no rows")
    note_inputs(noted)  # only those of rows: what is left out is tried again anyway
    return rows


class _WrongColumns(ValueError):
    """The converter gave wrong columns, which is not the fault of a record."""


def _wrong_columns(row: Mapping[str, Any], features: Mapping[str, Any], schema: Schema) -> _WrongColumns:
    return _WrongColumns(
        f"`convert` must give rows with the columns {', '.join(features)} of the {schema} schema, got "
        f"{', '.join(row)}."
    )


def _check_columns(row: Mapping[str, Any], schema: Schema) -> None:
    if not set(FEATURES[schema]) <= set(row) <= {*FEATURES[schema], *OPTIONAL_FEATURES[schema]}:
        raise _wrong_columns(row, FEATURES[schema], schema)
    image = row["image"]
    if isinstance(image, (str, os.PathLike)) or (isinstance(image, Mapping) and image.get("bytes") is None):
        raise _WrongColumns(
            "`convert` must give the bytes of an image, a path would not be stored: use `{'bytes': "
            "read_image_bytes(path), 'path': None}`."
        )


def _write_with_ray(jobs: list[_ShardJob], num_workers: int | None, update: Callable[[int], Any]) -> list[WriteReport]:
    reports: dict[int, WriteReport] = {}
    # Their machines may have GPUs, which nothing here needs.
    for index, text in run_on_actors(_make_writer, jobs, ActorOptions(num_workers, gpus=0.0), extra="data"):
        reports[index] = parse_report(jobs[index].path, json.loads(text))
        update(reports[index].records)
    return [reports[index] for index in range(len(jobs))]


def _make_writer() -> Callable[[_ShardJob], Iterator[str]]:
    """What an actor of Ray does with a shard."""
    return lambda job: iter([report_json(_write_shard(job))])


def _replace_all(output_dir: Path, split: str, write: Callable[[Path, bool], list[WriteReport]]) -> WriteReport:
    """Write all shards into a separate folder, then replace the old ones."""
    folder = overwrite_folder(output_dir, split)
    folder.mkdir()
    report = WriteReport.total(write(folder, True))
    if report.rows == 0:
        print(f"{split}: no rows, so the files that are there stay", file=sys.stderr)
    else:
        report.files = [move_shard(path, output_dir) for path in report.files]
        # Old shards have other names where their number was another.
        for path in files_of_split(output_dir, split):
            if path not in report.files:
                remove_shard(path)
    shutil.rmtree(folder)
    return report


def _finished(job: _ShardJob) -> WriteReport | None:
    """The report of a shard that is complete and up to date, so it need not be written again.

    That it was made of the same options and records is known before. Here are its own bytes, the files that were read
    for it, and the records that were left out, which are tried again.
    """
    if not job.path.exists():
        return None
    content = read_notes(report_path(job.path))
    if content is None or content["parquet"] != footer_digest(job.path):
        return None  # killed between report and shard, or the file was cut
    if content["inputs"] is not None:
        inputs = read_notes(inputs_path(job.path))
        if digest_of([inputs]) != content["inputs"]:
            return None
        if (changed := changed_input(inputs["files"], job.output_dir)) is not None:
            raise FileExistsError(
                f"{job.path} was made from a different {changed}. Pass `--overwrite` to "
                "write it again, or another folder."
            )
        if _has_rows_now(job, inputs["skipped"]):
            return None
    return parse_report(job.path, content)


def _has_rows_now(job: _ShardJob, positions: Iterable[int]) -> bool:
    """Whether a record that was left out can be converted now, because its missing image has appeared."""
    for position in positions:
        try:
            _rows_of(job, job.records[position], [])
        except (SkipRecord, *DATA_ERRORS):
            continue
        return True
    return False


def _check_arguments(
    schema: str, split: str, num_shards: int, shard: int | None, engine: str, num_workers: int | None
) -> None:
    if schema not in FEATURES:
        raise ValueError(f"`schema` must be one of {', '.join(map(repr, FEATURES))}, got {schema!r}.")
    if not re.fullmatch(r"\w+([.\-]\w+)*", split):
        raise ValueError(f"`split` must be a plain name such as 'train', got {split!r}.")
    check_shard(shard, num_shards)
    if engine not in ("plain", "ray"):
        raise ValueError(f"`engine` must be 'plain' or 'ray', got {engine!r}.")
    if num_workers is not None and (engine == "plain" or num_workers < 1):
        raise ValueError(
            f"`num_workers` is the number of shards that Ray writes at the same time, got {num_workers} with the "
            f"engine {engine!r}. Without Ray, start one job for each `shard`."
        )


__all__ = ["WriteReport", "write_dataset"]
