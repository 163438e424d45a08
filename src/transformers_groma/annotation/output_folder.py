"""The output folder of `groma annotate`: its shards, their notes, and the settings that all of them were made with.

Beside the shards `train-00000-of-00004.parquet` are `report.json`, for people, and in the hidden folder `.annotate`

- `settings.json`: what the shards are made of; a run with other settings or another source is refused;
- `train-00000-of-00004.report.json`: of a finished shard its counts, what was left out, and its digest;
- `train-00000-of-00004.rows.jsonl`: the rows of a shard that is not finished, batch by batch.
"""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .._files import write_file
from .._output_errors import naming
from ..data.annotation_columns import SHARD_SPLIT
from ..data.parquet import footer_digest, read_notes
from ..data.shard_files import files_of_split, parse_report, report_json, shard_name
from ..data.write_report import WriteReport
from ..image_inputs import shortened
from .sources.source_images import SourceShard

REPORT = "report.json"
GALLERY = "gallery.png"
_NOTES = ".annotate"
_SETTINGS = "settings.json"


class OutputFolder:
    """The output folder of a run.

    Args:
        path (`Path`): the folder; made when something is written.
        num_shards (`int`): how many shards there are.
    """

    def __init__(self, path: Path, num_shards: int) -> None:
        self.path, self.num_shards = path, num_shards
        self.notes = path / _NOTES

    def shard(self, index: int) -> Path:
        """The Parquet file of a shard."""
        return self.path / shard_name(SHARD_SPLIT, index, self.num_shards)

    def journal(self, index: int) -> Path:
        """The rows of a shard that is not finished."""
        return self.notes / f"{self.shard(index).stem}.rows.jsonl"

    def report_path(self, index: int) -> Path:
        """The report of a shard."""
        return self.notes / f"{self.shard(index).stem}.report.json"

    def report(self, index: int) -> WriteReport | None:
        """The report of a shard; `None` where it is not finished, or was cut since."""
        path = self.shard(index)
        content = read_notes(self.report_path(index))
        if content is None or not path.exists() or content.get("parquet") != footer_digest(path):
            return None
        return parse_report(path, content)

    def check(self, settings: Mapping[str, Any], shards: Sequence[SourceShard]) -> None:
        """Refuse a folder that holds annotations of something else.

        Args:
            settings (`Mapping[str, Any]`): what the rows depend on, by the names of options.
            shards (`Sequence[SourceShard]`): of the source.

        Raises:
            FileExistsError: the message says what differs.
        """
        remedy = "Pass --overwrite to replace them, or another OUT."
        found = read_notes(self.notes / _SETTINGS)
        if found is not None and not found.keys() >= {"settings", "shards"}:
            raise FileExistsError(f"{self.notes / _SETTINGS} is damaged: it has no settings. {remedy}")
        if found is None:
            others = files_of_split(self.path, SHARD_SPLIT) if self.path.is_dir() else []
            if others:
                raise FileExistsError(
                    f"{self.path} holds files that this command has not written ({others[0].name}). {remedy}"
                )
            return
        if not self._holds_annotations():
            return  # a run that ended before its first batch leaves nothing to mix with
        wanted = _content(settings, shards)
        before, now = found["settings"], wanted["settings"]
        names = [name for name in {**before, **now} if _compared(before.get(name)) != _compared(now.get(name))]
        if names:
            differing = "; ".join(
                f"{name} was {_shown(before.get(name))} and is {_shown(now.get(name))}" for name in names
            )
            raise FileExistsError(
                f"{self.path} holds annotations that were made with other settings: {differing}. {remedy}"
            )
        if found["shards"] != wanted["shards"]:
            raise FileExistsError(
                f"the source has changed since {self.path} was begun: {_changed(found['shards'], wanted['shards'])}. "
                f"{remedy}"
            )

    def begin(self, settings: Mapping[str, Any], shards: Sequence[SourceShard]) -> None:
        """Note what the shards are made of, unless that is noted."""
        content = json.dumps(_content(settings, shards), indent=2, ensure_ascii=False) + "\n"
        if read_notes(self.notes / _SETTINGS) is None or not self._holds_annotations():
            write_file(self.notes / _SETTINGS, content.encode())

    def _holds_annotations(self) -> bool:
        """Whether a shard is there, or a batch of one."""
        journals = self.notes.glob("*.rows.jsonl") if self.notes.is_dir() else ()
        return bool(files_of_split(self.path, SHARD_SPLIT)) or any(path.stat().st_size for path in journals)

    def clear(self) -> None:
        """Remove what earlier runs have written, of whatever settings."""
        if not self.path.is_dir():
            return
        with naming(self.path):
            for path in (*files_of_split(self.path, SHARD_SPLIT), self.path / REPORT, self.path / GALLERY):
                path.unlink(missing_ok=True)
            # The settings go last: without them the rest is not recognized.
            if self.notes.is_dir():
                for path in sorted(self.notes.iterdir(), key=lambda path: path.name == _SETTINGS):
                    path.unlink(missing_ok=True)
                shutil.rmtree(self.notes)

    def remove_journals(self) -> None:
        """Remove the journals of finished shards, which a kill at the wrong moment leaves."""
        for index in range(self.num_shards):
            if self.journal(index).exists() and self.report(index) is not None:
                self.journal(index).unlink(missing_ok=True)

    def write_report(self) -> tuple[WriteReport, int]:
        """Write the report of all finished shards.

        Returns:
            The report, and how many shards are not finished.
        """
        reports = [self.report(index) for index in range(self.num_shards)]
        finished = [report for report in reports if report is not None]
        total = WriteReport.total(finished)
        text = report_json(total, shards=self.num_shards, finished_shards=len(finished))
        write_file(self.path / REPORT, text.encode())
        return total, self.num_shards - len(finished)


def check_out(source: str, out: Path) -> None:
    """Refuse an output folder that is the source or a file.

    Raises:
        ValueError: it is.
    """
    if out.exists() and not out.is_dir():
        raise ValueError(f"OUT {str(out)!r} is a file. Pass a folder.")
    if os.path.isdir(source) and os.path.realpath(source) == os.path.realpath(out):
        raise ValueError(f"OUT {str(out)!r} is SOURCE. Pass another folder; it may be inside of it.")


def _content(settings: Mapping[str, Any], shards: Sequence[SourceShard]) -> dict[str, Any]:
    # Through JSON, so that it compares with what was read.
    entries = [{"name": shard.name, "images": shard.count, "state": shard.state} for shard in shards]
    return json.loads(json.dumps({"settings": dict(settings), "shards": entries}))


def _compared(value: Any) -> Any:
    """A value without what only people read: a model's copy may have another name."""
    return value["digest"] if isinstance(value, Mapping) and "digest" in value else value


def _shown(value: Any) -> str:
    if isinstance(value, Mapping) and "digest" in value:
        return f"{value['name']} ({value['digest']})"
    return "not given" if value is None else shortened(value)


def _changed(before: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]) -> str:
    for old, new in zip(before, now):
        if old != new:
            what = f"{old['name']} ({old['images']} images)"
            if old["name"] == new["name"] and old["images"] == new["images"]:
                return f"{what} is not as it was"
            return f"{what} is now {new['name']} ({new['images']} images)"
    return f"it had {len(before)} shards and has {len(now)}"


__all__ = ["GALLERY", "REPORT", "OutputFolder", "check_out"]
