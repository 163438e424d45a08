"""Writing a dataset as Parquet shards: bad records are skipped with a reason, a killed job resumes where it stopped.

Shard `k` of `n` holds `records[k::n]`, whichever engine writes it, and beside it lies a report of what was skipped and
of what the shard was made of. It is finished, and left alone, only if all of that is the same: options, records, and
the files that were read for it. Anything else is an error that names what differs; nothing is mixed, and nothing is
replaced unless that is wanted. Records that were left out are tried again, so that images that turn up later get into
their shard. A record is one unit of the source (usually a picture with its annotations); it becomes zero or more rows.
"""

import hashlib
import json
import os
import pickle
import re
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Literal, TypeVar

from datasets.arrow_writer import ParquetWriter
from tqdm.auto import tqdm

from .._files import complete_file, one_writer, write_file
from .columns import FEATURES, OPTIONAL_FEATURES, Schema, check_row, features_of
from .image_files import check_size, exif_orientation, read_image_bytes, upright_size
from .left_out import DATA_ERRORS, LeftOut, SkipRecord, reason_of
from .mixtures import split_of_file
from .provenance import (
    changed_input,
    digest_of,
    digests_of_options,
    note_inputs,
    noted_inputs,
    relative_states,
)

Engine = Literal["plain", "ray"]
Record = TypeVar("Record")

# Of this module. Raise it where the same records become other rows: shards of another version are not taken for
# finished.
ROWS_VERSION = 1
MAX_EXAMPLES = 20
# Reasons may quote numbers, and names whole records; a report must stay small all the same. A reason ends with what to
# do, so it has more room.
MAX_REASONS = 100
MAX_REASON_LENGTH = 1000
MAX_LENGTH = 200
MAX_TOLD = 10
OTHER_REASONS = "other reasons"


@dataclass
class WriteReport:
    """What became of the records of one or more shards.

    Args:
        rows (`int`): rows written.
        records (`int`): records read.
        skipped (`dict` of `str` to `int`): number of records left out, by reason.
        examples (`list` of `(name, reason)`): 20 of them, the first ones and of each reason one, as far as they fit.
        files (`list` of `Path`): the Parquet files.
        parts (`dict` of `str` to `int`): number of annotations and the like that were left out of records, by reason.
    """

    rows: int = 0
    records: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    examples: list[tuple[str, str]] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    parts: dict[str, int] = field(default_factory=dict)

    def skip(self, name: str, reason: str, detail: str = "") -> None:
        """Count a record that is left out.

        Args:
            name (`str`): how a reader finds the record.
            reason (`str`): why it is left out, in words that do not differ from record to record.
            detail (`str`): what does differ.
        """
        self._count(self.skipped, name, reason, detail)

    def leave_out(self, name: str, part: LeftOut) -> None:
        """Count a part of a record that is left out alone.

        Args:
            name (`str`): how a reader finds the record.
            part (`LeftOut`): why.
        """
        self._count(self.parts, name, part.reason, part.detail)

    def _count(self, counts: dict[str, int], name: str, reason: str, detail: str) -> None:
        reason = reason[:MAX_REASON_LENGTH]
        # Names may hold half a character, which no file does.
        name, detail = (text[:MAX_LENGTH].encode(errors="backslashreplace").decode() for text in (name, detail))
        example = (name, f"{reason}: {detail}" if detail else reason)
        if reason not in counts and len(counts) >= MAX_REASONS:
            reason = OTHER_REASONS
        counts[reason] = counts.get(reason, 0) + 1
        if len(self.examples) < MAX_EXAMPLES:
            self.examples.append(example)
        elif counts[reason] == 1:
            self._make_room_for(example)

    def _make_room_for(self, example: tuple[str, str]) -> None:
        """Put the first example of a reason in place of the last one whose reason has several."""
        reasons = [self._reason_of(text) for _, text in self.examples]
        for index in reversed(range(len(reasons))):
            if reasons.count(reasons[index]) > 1:
                self.examples = [*self.examples[:index], *self.examples[index + 1 :], example]
                return

    def _reason_of(self, example: str) -> str:
        """The reason with which an example begins."""
        reasons = (reason for reason in (*self.skipped, *self.parts) if f"{example}: ".startswith(f"{reason}: "))
        return max(reasons, key=len, default=OTHER_REASONS)

    def told(self) -> list[str]:
        """A line for each of the commonest reasons, with an example beside it.

        Returns:
            `list[str]`: the lines.

        Example:
        >>> report = WriteReport()
        >>> report.skip("a.jpg", "image has another size than annotated", "800x601, annotated 640x480")
        >>> report.told()
        ['image has another size than annotated (1), for example a.jpg: 800x601, annotated 640x480']
        """
        first: dict[str, str] = {}
        for name, example in self.examples:
            reason = self._reason_of(example)
            first.setdefault(reason, f", for example {name}{example.removeprefix(reason)}")
        return [
            f"{reason} ({count}){first.get(reason, '')}"
            for counts in (self.skipped, self.parts)
            for reason, count in Counter(counts).most_common(MAX_TOLD)
        ]

    def summary(self) -> str:
        """One line: rows, records, and what was skipped, the commonest reason first.

        Returns:
            `str`: the line.

        Example:
        >>> WriteReport(rows=7, records=10, skipped={"missing picture": 2, "no boxes": 1}).summary()
        '7 rows from 10 records; skipped 3: missing picture (2), no boxes (1)'
        """
        line = f"{self.rows} rows from {self.records} records"
        if self.skipped:
            line += f"; skipped {_summary(self.skipped)}"
        if self.parts:
            line += f"; left out of records {_summary(self.parts)}"
        return line


def _summary(counts: Mapping[str, int]) -> str:
    common = Counter(counts).most_common(MAX_TOLD)
    reasons = ", ".join(f"{reason} ({count})" for reason, count in common)
    return f"{sum(counts.values())}: {reasons}{', ...' if len(counts) > len(common) else ''}"


def write_dataset(
    records: Sequence[Record],
    convert: Callable[[Record], Iterable[dict[str, Any]]],
    *,
    schema: Schema,
    output_dir: str | os.PathLike,
    split: str = "train",
    num_shards: int = 1,
    shard: int | None = None,
    engine: Engine = "plain",
    num_workers: int | None = None,
    overwrite: bool = False,
    record_name: Callable[[Record], str] = str,
    options: Mapping[str, Any] | None = None,
) -> WriteReport:
    """Convert records and write them as `{split}-{k:05d}-of-{n:05d}.parquet`, each with a `.report.json` beside it.

    A shard is written under another name and renamed when it is whole; one without a row is not kept. Finished shards
    are left alone, so that a job that was killed resumes when it is started again. They must be made of the same
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
            cluster, whose machines must all see `output_dir` and the pictures.
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
    names = {index: f"{split}-{index:05d}-of-{num_shards:05d}.parquet" for index in shards}

    def write(folder: Path, again: bool) -> list[WriteReport]:
        jobs = {
            index: _ShardJob(
                folder / name, records[index::num_shards], convert, schema, record_name, made_of, output_dir
            )
            for index, name in names.items()
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

    with one_writer(output_dir, split, None if shard is None else f"{shard:05d}"):
        if shard is None:
            _remove_leftovers(output_dir, split)
        stale = _other_files(output_dir, split, num_shards, made_of)
        if stale and not overwrite:
            raise FileExistsError(_conflict(stale, num_shards, made_of))
        if overwrite and shard is None and _files_of_split(output_dir, split):
            report = _replace_all(output_dir, split, write)
        else:
            for path in stale:
                _remove_shard(path)
            report = _add_up(write(output_dir, again=overwrite))
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
    try:
        with complete_file(job.path) as file, noted_inputs() as noted:
            rows = _convert_all(job, report, skipped, update)
            first = next(rows, None)
            if first is None:
                raise _NoRows
            features = features_of(first, job.schema)
            with ParquetWriter(features=features, stream=file) as writer:
                for row in chain([first], rows):
                    if set(row) != set(features):
                        raise _wrong_columns(row, features, job.schema)
                    writer.write(features.encode_example(row))
                    report.rows += 1
                writer.finalize(close_stream=False)
            file.flush()
            # The report says which shard it is of, and comes first: whatever a kill leaves behind is told from a
            # finished shard.
            inputs = _write_inputs(job.path, skipped, relative_states(noted, job.output_dir))
            _write_report(job, report, footer_digest(Path(file.name)) or "", inputs)
    except _NoRows:
        _remove_shard(job.path)
        # Hidden: where there are more reports than shards, `load_dataset` would take them for the dataset.
        write_file(_rowless_report_path(job.path), _report_json(report).encode())
        return report
    _rowless_report_path(job.path).unlink(missing_ok=True)
    report.files = [job.path]
    return report


class _NoRows(Exception):
    """Not a single record of a shard has rows."""


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
    """Rows of a record; parts of it that are left out are added to `parts`, also where there are no rows then."""
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
    """The converter is wrong, not a record."""


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
            "`convert` must give the bytes of an image, a path would not be stored: "
            "use `{'bytes': read_image_bytes(path), 'path': None}`."
        )


def _write_with_ray(jobs: list[_ShardJob], num_workers: int | None, update: Callable[[int], Any]) -> list[WriteReport]:
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ImportError(
            'The engine "ray" needs Ray. Install it with `pip install "transformers-groma[data]"`, or use the engine '
            '"plain".'
        ) from error
    if not jobs:
        return []
    # One object a shard: a worker fetches the records of its shard only.
    references = [ray.put(job) for job in jobs]

    def write(row: dict[str, Any]) -> dict[str, Any]:
        index = int(row["id"])
        try:
            return {"index": index, "report": _report_json(_write_shard(ray.get(references[index]))), "error": b""}
        except (OSError, ValueError) as error:  # Ray would hide the message in a trace of its own
            return {"index": index, "report": "", "error": pickle.dumps(error)}

    ray.data.DataContext.get_current().enable_progress_bars = False  # the caller shows progress in records
    compute = None if num_workers is None else ray.data.TaskPoolStrategy(size=num_workers)
    dataset = ray.data.range(len(jobs), override_num_blocks=len(jobs)).map(write, compute=compute)
    reports: dict[int, WriteReport] = {}
    for row in dataset.iter_rows():
        if row["error"]:
            raise pickle.loads(row["error"])
        index = int(row["index"])
        reports[index] = _parse_report(jobs[index].path, json.loads(row["report"]))
        update(reports[index].records)
    return [reports[index] for index in range(len(jobs))]


def _files_of_split(folder: Path, split: str) -> list[Path]:
    """What a reader takes for the rows of a split."""
    return [path for path in sorted(folder.glob("*.parquet")) if split_of_file(path.name) == split]


def _other_files(output_dir: Path, split: str, num_shards: int, made_of: Mapping[str, str]) -> list[Path]:
    """Shards that a reader would take for rows of this dataset, and that are of another one."""
    others = []
    for path in _files_of_split(output_dir, split):
        match = re.fullmatch(rf"{re.escape(split)}-(\d{{5,}})-of-(\d{{5,}})\.parquet", path.name)
        if match is None:
            raise FileExistsError(
                f"{path} would be read as a part of the split {split!r}, and is not a file of this program. Remove "
                f"it, or pass "
                "another folder."
            )
        content = _report_of(path)
        if int(match[2]) != num_shards or content is None or content.get("made_of") != made_of:
            others.append(path)
    return others


def _conflict(stale: list[Path], num_shards: int, made_of: Mapping[str, str]) -> str:
    """What is wrong with the first of the shards that are of another dataset."""
    path, remedy = stale[0], "Pass `--overwrite` to replace it, or another folder."
    content = _report_of(path)
    if not path.name.endswith(f"-of-{num_shards:05d}.parquet"):
        return (
            f"{path.parent} holds files of another number of shards ({path.name}), not of {num_shards}. Pass the same "
            f"number to "
            "resume that dataset, `--overwrite` to replace it, or another folder."
        )
    if content is None:
        return f"{path} has no report beside it: it was not written by this program. {remedy}"
    if "made_of" not in content:
        return f"{path} was written by an earlier version, which did not note what it was made of. {remedy}"
    found = content["made_of"]
    names = [name for name in {**made_of, **found} if found.get(name) != made_of.get(name)]
    return f"{path} was made of other rows than these; what differs: {', '.join(names)}. {remedy}"


def _replace_all(output_dir: Path, split: str, write: Callable[[Path, bool], list[WriteReport]]) -> WriteReport:
    """Write all shards into a folder of their own, then put them in the place of the old ones."""
    folder = output_dir / f".{split}.overwrite"
    folder.mkdir()
    report = _add_up(write(folder, True))
    if report.rows == 0:
        print(f"{split}: no rows, so the files that are there stay", file=sys.stderr)
    else:
        new = {path.name for path in report.files}
        for path in report.files:
            for part in (_inputs_path(path), _report_path(path), path):
                if part.exists():
                    part.replace(output_dir / part.name)
        for path in _files_of_split(output_dir, split):
            if path.name not in new:
                _remove_shard(path)
        report.files = [output_dir / path.name for path in report.files]
    shutil.rmtree(folder)
    return report


def _remove_leftovers(output_dir: Path, split: str) -> None:
    """What killed runs have left, of any number of shards. Nobody else is writing this split."""
    shutil.rmtree(output_dir / f".{split}.overwrite", ignore_errors=True)
    shard = re.compile(rf"\.?({re.escape(split)}-\d{{5,}}-of-\d{{5,}})\.(parquet-\w+\.partial|(report|inputs)\.json)")
    for path in list(output_dir.iterdir()):
        match = shard.fullmatch(path.name)
        # Notes without their shard: of one without rows, which is tried again, or of one that was about to get its
        # name.
        if match and (path.suffix == ".partial" or not (output_dir / f"{match[1]}.parquet").exists()):
            path.unlink(missing_ok=True)


def _report_path(path: Path) -> Path:
    return path.with_suffix(".report.json")


def _rowless_report_path(path: Path) -> Path:
    return path.with_name(f".{path.stem}.report.json")


def _inputs_path(path: Path) -> Path:
    # Hidden: it is nothing to look at, and may be long.
    return path.with_name(f".{path.stem}.inputs.json")


def _remove_shard(path: Path) -> None:
    for part in (path, _report_path(path), _inputs_path(path), _rowless_report_path(path)):
        part.unlink(missing_ok=True)


def _report_json(report: WriteReport, **more: Any) -> str:
    content = {
        "rows": report.rows,
        "records": report.records,
        "skipped": report.skipped,
        "examples": report.examples,
        **({"parts": report.parts} if report.parts else {}),
        **more,
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _write_report(job: _ShardJob, report: WriteReport, parquet: str, inputs: str | None) -> None:
    text = _report_json(report, made_of=dict(job.made_of), parquet=parquet, inputs=inputs)
    write_file(_report_path(job.path), text.encode())


def _write_inputs(path: Path, skipped: list[int], files: Mapping[str, Any]) -> str | None:
    """Note the files that a shard was made of, and the positions of the records that were left out; a digest of the notes."""
    if not skipped and not files:
        _inputs_path(path).unlink(missing_ok=True)
        return None
    content = {"skipped": skipped, "files": files}
    write_file(_inputs_path(path), json.dumps(content).encode())
    return digest_of([content])


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None


def _report_of(path: Path) -> dict[str, Any] | None:
    content = _read_json(_report_path(path))
    return content if isinstance(content, dict) else None


def _parse_report(path: Path, content: Mapping[str, Any]) -> WriteReport:
    examples = [(name, reason) for name, reason in content["examples"]]
    files = [path] if content["rows"] else []
    return WriteReport(
        content["rows"], content["records"], content["skipped"], examples, files, content.get("parts", {})
    )


def footer_digest(path: Path) -> str | None:
    """A digest of the end of a Parquet file, which says where everything before it is.

    Args:
        path (`Path`): the file.

    Returns:
        `str`, *optional*: its size, and 16 hexadecimal digits; `None` if it is cut.
    """
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 8))
        end = file.read()
        length = int.from_bytes(end[:4], "little") + 8
        if len(end) < 8 or end[4:] != b"PAR1" or length > size:
            return None
        file.seek(size - length)
        return f"{size} {hashlib.blake2b(file.read(), digest_size=8).hexdigest()}"


def _finished(job: _ShardJob) -> WriteReport | None:
    """The report of a shard that need not be written again; what it was made of is known to be the same, but for files."""
    if not job.path.exists():
        return None
    content = _report_of(job.path)
    if content is None or content["parquet"] != footer_digest(job.path):
        return None  # killed between the two, or cut
    if content["inputs"] is not None:
        inputs = _read_json(_inputs_path(job.path))
        if digest_of([inputs]) != content["inputs"]:
            return None
        if (changed := changed_input(inputs["files"], job.output_dir)) is not None:
            raise FileExistsError(
                f"{job.path} was made of another {changed} than the one that is there now. Pass `--overwrite` to "
                f"write it "
                "again, or another folder."
            )
        if _has_rows_now(job, inputs["skipped"]):
            return None
    return _parse_report(job.path, content)


def _has_rows_now(job: _ShardJob, positions: Iterable[int]) -> bool:
    """Whether one of the records that were left out can be converted by now, as an image that was missing is there."""
    for position in positions:
        try:
            _rows_of(job, job.records[position], [])
        except (SkipRecord, *DATA_ERRORS):
            continue
        return True
    return False


def _add_up(reports: list[WriteReport]) -> WriteReport:
    total = WriteReport()
    for report in reports:
        total.rows += report.rows
        total.records += report.records
        for counts, more in ((total.skipped, report.skipped), (total.parts, report.parts)):
            for reason, count in more.items():
                counts[reason] = counts.get(reason, 0) + count
        total.examples += report.examples
        total.files += report.files
    while len(total.examples) > MAX_EXAMPLES:
        *total.examples, last = total.examples
        if total._reason_of(last[1]) not in [total._reason_of(text) for _, text in total.examples]:
            total._make_room_for(last)
    return total


def named_as_options(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values under the names of the options that set them, for messages.

    Args:
        values (`Mapping`): by the names of fields or arguments.

    Returns:
        `dict`: the same.

    Example:
    >>> named_as_options({"box_format": "xywh"})
    {'--box-format': 'xywh'}
    """
    return {f"--{name.replace('_', '-')}": value for name, value in values.items()}


def _check_arguments(
    schema: str, split: str, num_shards: int, shard: int | None, engine: str, num_workers: int | None
) -> None:
    if schema not in FEATURES:
        raise ValueError(f"`schema` must be one of {', '.join(map(repr, FEATURES))}, got {schema!r}.")
    if not re.fullmatch(r"\w+([.\-]\w+)*", split):
        raise ValueError(f"`split` must be a plain name such as 'train', got {split!r}.")
    if num_shards < 1:
        raise ValueError(f"`num_shards` must be at least 1, got {num_shards}.")
    if shard is not None and not 0 <= shard < num_shards:
        raise ValueError(f"`shard` must be in 0..{num_shards - 1}, as there are {num_shards} shards, got {shard}.")
    if engine not in ("plain", "ray"):
        raise ValueError(f"`engine` must be 'plain' or 'ray', got {engine!r}.")
    if num_workers is not None and (engine == "plain" or num_workers < 1):
        raise ValueError(
            f"`num_workers` is the number of shards that Ray writes at the same time, got {num_workers} with the "
            f"engine "
            f"{engine!r}. Without Ray, start one job for each `shard`."
        )


__all__ = [
    "LeftOut",
    "SkipRecord",
    "WriteReport",
    "check_size",
    "exif_orientation",
    "footer_digest",
    "named_as_options",
    "read_image_bytes",
    "upright_size",
    "write_dataset",
]
