"""Writing a dataset as Parquet shards: bad records are skipped with a reason, a killed job goes on where it stopped.

Shard `k` of `n` holds `records[k::n]`, whichever engine writes it, and beside it lies a report of what was skipped.
A record is one unit of the source (usually a picture with its annotations); it becomes zero or more rows.
"""

import io
import json
import os
import pickle
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from datasets.arrow_writer import ParquetWriter
from PIL import Image as PilImage
from tqdm.auto import tqdm

from .._files import write_file
from .columns import FEATURES, Schema, check_row

Engine = Literal["plain", "ray"]
Record = TypeVar("Record")

# What bad data raises in a converter. Other errors (AttributeError, NameError, AssertionError, MemoryError ...) are mistakes
# of the program or of the machine: they stop the job.
DATA_ERRORS = (OSError, LookupError, ValueError, TypeError, ArithmeticError)
MAX_EXAMPLES = 20
# Reasons may quote numbers, and names whole records; a report must stay small all the same.
MAX_REASONS = 100
MAX_LENGTH = 200
OTHER_REASONS = "other reasons"


class SkipRecord(Exception):
    """Raised by a converter that leaves a record out; its message is the reason in the report."""


@dataclass
class WriteReport:
    """What became of the records of one or more shards.

    Args:
        rows (`int`): rows written.
        records (`int`): records read.
        skipped (`dict` of `str` to `int`): number of records left out, by reason.
        examples (`list` of `(name, reason)`): the first 20 of them.
        files (`list` of `Path`): the Parquet files.
    """

    rows: int = 0
    records: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    examples: list[tuple[str, str]] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)

    def skip(self, name: str, reason: str) -> None:
        """Count a record that is left out.

        Args:
            name (`str`): how a reader finds the record.
            reason (`str`): why it is left out.
        """
        name, reason = name[:MAX_LENGTH], reason[:MAX_LENGTH]
        if len(self.examples) < MAX_EXAMPLES:
            self.examples.append((name, reason))
        if reason not in self.skipped and len(self.skipped) >= MAX_REASONS:
            reason = OTHER_REASONS
        self.skipped[reason] = self.skipped.get(reason, 0) + 1

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
            common = Counter(self.skipped).most_common(10)
            reasons = ", ".join(f"{reason} ({count})" for reason, count in common)
            rest = ", ..." if len(self.skipped) > len(common) else ""
            line += f"; skipped {sum(self.skipped.values())}: {reasons}{rest}"
        return line


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
) -> WriteReport:
    """Convert records and write them as `{split}-{k:05d}-of-{n:05d}.parquet`, each with a `.report.json` beside it.

    A shard is written under another name and renamed when it is whole. Finished shards are left alone, so that a job that
    was killed goes on when it is started again. The files do not depend on the engine.

    Args:
        records (`Sequence`): what `convert` reads, in an order that is the same in every run.
        convert (`Callable`): makes the rows of one record: dicts with exactly the columns of the schema, boxes `xyxy` in
            absolute pixels of the upright image, the image as `{"bytes": ..., "path": ...}`, as a PIL image (stored as
            PNG) or `None`. It must give the same rows every time. `SkipRecord`, `OSError`, `LookupError`, `ValueError`,
            `TypeError` or `ArithmeticError` skip the record, and so does a row that fails `columns.check_row`; other
            errors stop the job.
        schema (`str`): `"detection"`, `"conversation"` or `"evaluation"`.
        output_dir (`str` or `Path`): folder of the files, made if needed. `load_dataset(folder)` reads it.
        split (`str`): name of the split.
        num_shards (`int`): number of files.
        shard (`int`, *optional*): write this one only, for array jobs; by default all of them.
        engine (`str`): `"plain"` writes one shard after the other in this process; `"ray"` spreads them over a Ray
            cluster, whose machines must all see `output_dir` and the pictures.
        num_workers (`int`, *optional*): with Ray, the most shards written at the same time; by default as many as there
            are CPUs.
        overwrite (`bool`): write shards again that are finished, and remove files of another number of shards.
        record_name (`Callable`): names a record in the report.

    Returns:
        `WriteReport`: of all shards asked for, those finished earlier included.

    Raises:
        ValueError: a wrong argument, or rows that have other columns than the schema.
        FileExistsError: the folder holds files of another number of shards or of other records.
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
    output_dir.mkdir(parents=True, exist_ok=True)
    shards = list(range(num_shards)) if shard is None else [shard]
    paths = {index: output_dir / f"{split}-{index:05d}-of-{num_shards:05d}.parquet" for index in shards}
    _make_way(output_dir, split, num_shards, list(paths.values()), overwrite)

    reports: dict[int, WriteReport] = {}
    for index, path in paths.items():
        if path.exists():
            reports[index] = _read_report(path, len(records[index::num_shards]))
    jobs = [
        _ShardJob(path, records[index::num_shards], convert, schema, record_name)
        for index, path in paths.items()
        if index not in reports
    ]
    total = sum(len(job.records) for job in jobs)
    with tqdm(total=total, desc=f"{split} ({len(jobs)} of {num_shards} shards)", unit="record") as progress:
        if engine == "plain":
            written = [_write_shard(job, progress.update) for job in jobs]
        else:
            written = _write_with_ray(jobs, num_workers, progress.update)
    reports |= {shards[list(paths.values()).index(report.files[0])]: report for report in written}
    report = _add_up([reports[index] for index in shards])
    print(f"{split}: {report.summary()}", file=sys.stderr)
    return report


def read_image_bytes(path: str | os.PathLike) -> bytes:
    """The bytes of a picture file, checked to be a picture that decodes to its end.

    Args:
        path (`str` or `Path`): the file.

    Returns:
        `bytes`: its content, unchanged.

    Raises:
        SkipRecord: `"missing picture"`, `"empty picture file"`, `"not a picture"` or `"broken picture"`.

    Example:
    >>> len(read_image_bytes("no/such/file.jpg"))
    Traceback (most recent call last):
    transformers_groma.data.shards.SkipRecord: missing picture
    """
    try:
        content = Path(path).read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise SkipRecord("missing picture") from None
    if not content:
        raise SkipRecord("empty picture file")
    with _open_picture(content) as image:
        try:
            # JPEG decodes at an eighth of its size in a fraction of the time, and reads its whole file.
            image.draft("L", (max(1, image.width // 8), max(1, image.height // 8)))
            image.load()
            image.getexif()
        except MemoryError:
            raise
        except Exception:  # Pillow lets through whatever its parsers meet: OSError, SyntaxError, struct.error ...
            raise SkipRecord("broken picture") from None
    return content


def upright_size(content: bytes) -> tuple[int, int]:
    """Size of a picture as a viewer shows it, its EXIF orientation applied.

    Args:
        content (`bytes`): a picture file.

    Returns:
        `tuple[int, int]`: width and height in pixels.

    Raises:
        SkipRecord: `"not a picture"`.

    Example:
    >>> upright_size(read_image_bytes("tests/fixtures/photos/cat_and_dog.jpg"))
    (800, 601)
    """
    with _open_picture(content) as image:
        width, height = image.size
    return (height, width) if exif_orientation(content) in (5, 6, 7, 8) else (width, height)


def exif_orientation(content: bytes) -> int:
    """How a viewer turns or mirrors a picture, by its EXIF data.

    Args:
        content (`bytes`): a picture file.

    Returns:
        `int`: 1 to 8; 1 is upright.

    Raises:
        SkipRecord: `"not a picture"`.

    Example:
    >>> exif_orientation(read_image_bytes("tests/fixtures/photos/cat_and_dog.jpg"))
    1
    """
    with _open_picture(content) as image:
        return image.getexif().get(0x0112, 1)


def check_size(content: bytes, width: int, height: int) -> None:
    """Check that a picture has the size its annotations were made for; otherwise the boxes would not fit.

    Args:
        content (`bytes`): a picture file.
        width, height (`int`): what the annotations say, in pixels of the upright image.

    Raises:
        SkipRecord: it has another size.

    Example:
    >>> check_size(read_image_bytes("tests/fixtures/photos/cat_and_dog.jpg"), 640, 480)
    Traceback (most recent call last):
    transformers_groma.data.shards.SkipRecord: picture is 800x601, annotations say 640x480
    """
    size = upright_size(content)
    if size != (int(width), int(height)):
        raise SkipRecord(f"picture is {size[0]}x{size[1]}, annotations say {width}x{height}")


@dataclass(frozen=True)
class _ShardJob:
    """All that is needed to write one shard, here or on another machine."""

    path: Path
    records: Sequence[Any]
    convert: Callable[[Any], Iterable[dict[str, Any]]]
    schema: Schema
    record_name: Callable[[Any], str]


def _write_shard(job: _ShardJob, update: Callable[[int], Any] = lambda count: None) -> WriteReport:
    for stale in job.path.parent.glob(f".{job.path.stem}.*-*"):
        stale.unlink(missing_ok=True)
    report = WriteReport(records=len(job.records), files=[job.path])
    with tempfile.NamedTemporaryFile(dir=job.path.parent, prefix=f".{job.path.name}-", delete=False) as file:
        temporary = Path(file.name)
        try:
            with ParquetWriter(features=FEATURES[job.schema], stream=file) as writer:
                for row in _convert_all(job, report, update):
                    writer.write(FEATURES[job.schema].encode_example(row))
                    report.rows += 1
                writer.finalize(close_stream=False)
            file.close()
            # A finished shard has its report: the report comes first.
            _write_report(report)
            temporary.chmod(0o644)  # temporary files are readable by their owner alone
            temporary.replace(job.path)
        finally:
            temporary.unlink(missing_ok=True)
    return report


def _convert_all(job: _ShardJob, report: WriteReport, update: Callable[[int], Any]) -> Iterator[dict[str, Any]]:
    """Rows of the good records of a job; the others are counted in the report."""
    for record in job.records:
        try:
            rows = list(job.convert(record))
            for row in rows:
                _check_columns(row, job.schema)
                check_row(row, job.schema)
            if not rows:
                raise SkipRecord("no rows")
        except _WrongColumns:
            raise
        except SkipRecord as error:
            report.skip(job.record_name(record), str(error))
        except DATA_ERRORS as error:
            report.skip(job.record_name(record), _reason(error))
        else:
            yield from rows
        update(1)


def _reason(error: Exception) -> str:
    # The message of an OSError names the file, which would make every reason another one.
    message = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return f"{type(error).__name__}: {message}"


class _WrongColumns(ValueError):
    """The converter is wrong, not a record."""


def _check_columns(row: Mapping[str, Any], schema: Schema) -> None:
    if set(row) != set(FEATURES[schema]):
        raise _WrongColumns(
            f"`convert` must give rows with the columns {', '.join(FEATURES[schema])} of the {schema} schema, "
            f"got {', '.join(row)}."
        )
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
            'The engine "ray" needs Ray. Install it with `pip install "transformers-groma[data]"`, or use the engine "plain".'
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
    reports = []
    for row in dataset.iter_rows():
        if row["error"]:
            raise pickle.loads(row["error"])
        reports.append(_parse_report(jobs[int(row["index"])].path, row["report"]))
        update(reports[-1].records)
    return reports


def _make_way(output_dir: Path, split: str, num_shards: int, wanted: list[Path], overwrite: bool) -> None:
    """Remove what `overwrite` allows to; without it, files of another number of shards are an error."""
    pattern = re.compile(rf"\.?{re.escape(split)}-\d{{5}}-of-(\d{{5}})\.(parquet|report\.json)")
    others = []
    for path in output_dir.iterdir():
        match = pattern.match(path.name)
        if match and int(match[1]) != num_shards:
            others.append(path)
    if others and not overwrite:
        raise FileExistsError(
            f"{output_dir} holds files of another number of shards ({min(path.name for path in others)}), not of "
            f"{num_shards}. Pass the same number to go on with that dataset, `--overwrite` to replace it, or another folder."
        )
    if overwrite:
        for path in [*others, *wanted]:
            path.unlink(missing_ok=True)


def _report_path(path: Path) -> Path:
    return path.with_suffix(".report.json")


def _report_json(report: WriteReport) -> str:
    content = {
        "rows": report.rows,
        "records": report.records,
        "skipped": report.skipped,
        "examples": report.examples,
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _write_report(report: WriteReport) -> None:
    write_file(_report_path(report.files[0]), _report_json(report).encode())


def _parse_report(path: Path, text: str) -> WriteReport:
    content = json.loads(text)
    examples = [(name, reason) for name, reason in content["examples"]]
    return WriteReport(content["rows"], content["records"], content["skipped"], examples, [path])


def _read_report(path: Path, num_records: int) -> WriteReport:
    """The report of a finished shard, which must be of the same records."""
    remedy = "Pass `--overwrite` to write it again, or another folder."
    if not _report_path(path).exists():
        raise FileExistsError(f"{path} has no report beside it: it was not written by this program. {remedy}")
    report = _parse_report(path, _report_path(path).read_text(encoding="utf-8"))
    if report.records != num_records:
        raise FileExistsError(
            f"{path} was made of {report.records} records, now there are {num_records} for it: other input. {remedy}"
        )
    return report


def _add_up(reports: list[WriteReport]) -> WriteReport:
    total = WriteReport()
    for report in reports:
        total.rows += report.rows
        total.records += report.records
        for reason, count in report.skipped.items():
            total.skipped[reason] = total.skipped.get(reason, 0) + count
        total.examples = (total.examples + report.examples)[:MAX_EXAMPLES]
        total.files += report.files
    return total


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
            f"`num_workers` is the number of shards that Ray writes at the same time, got {num_workers} with the engine "
            f"{engine!r}. Without Ray, start one job for each `shard`."
        )


def _open_picture(content: bytes) -> PilImage.Image:
    try:
        return PilImage.open(io.BytesIO(content))
    except (OSError, ValueError, PilImage.DecompressionBombError):
        raise SkipRecord("not a picture") from None


__all__ = [
    "SkipRecord",
    "WriteReport",
    "check_size",
    "exif_orientation",
    "read_image_bytes",
    "upright_size",
    "write_dataset",
]
