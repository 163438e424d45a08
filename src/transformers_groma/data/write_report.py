"""The report of a written dataset: rows, records, and what was left out, by reason."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .._words import counted, is_one_line
from .left_out import LeftOut

MAX_EXAMPLES = 20
# Reasons may quote numbers, and names whole records; but a report must stay small. A reason ends with what to
# do, so it has more room.
MAX_REASONS = 100
MAX_REASON_LENGTH = 1000
MAX_LENGTH = 200
MAX_TOLD = 10
OTHER_REASONS = "other reasons"


@dataclass
class WriteReport:
    """How many records of one or more shards were read, how many rows they gave, and what was left out.

    Args:
        rows (`int`): rows written.
        records (`int`): records read.
        skipped (`dict` of `str` to `int`): number of records left out, by reason.
        examples (`list` of `(name, reason)`): 20 of them: the first ones, and one of each reason as far as they fit.
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
        # Names may hold half a character (a lone surrogate), which cannot be written to a file.
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
        """Make room for a new reason's first example by dropping the last example whose reason has several."""
        reasons = [self._reason_of(text) for _, text in self.examples]
        for index in reversed(range(len(reasons))):
            if reasons.count(reasons[index]) > 1:
                self.examples = [*self.examples[:index], *self.examples[index + 1 :], example]
                return

    def _reason_of(self, example: str) -> str:
        """The reason at the start of an example."""
        reasons = (reason for reason in (*self.skipped, *self.parts) if f"{example}: ".startswith(f"{reason}: "))
        # The longest: a reason may be the beginning of another one.
        return max(reasons, key=len, default=OTHER_REASONS)

    def told(self) -> list[str]:
        """A line for each of the commonest reasons, with an example, and one for all others.

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
            # File names may have line breaks.
            name = name if is_one_line(name) else ascii(name)
            first.setdefault(reason, f", for example {name}{example.removeprefix(reason)}")
        lines = []
        for counts in (self.skipped, self.parts):
            common = Counter(counts).most_common(MAX_TOLD)
            lines += [f"{reason} ({count}){first.get(reason, '')}" for reason, count in common]
            if more := len(counts) - len(common):
                others = sum(counts.values()) - sum(count for _, count in common)
                lines.append(f"{counted(more, 'other reason')} ({others})")
        return lines

    def summary(self) -> str:
        """One line: rows, records, and what was skipped, the commonest reason first.

        Returns:
            `str`: the line.

        Example:
        >>> WriteReport(rows=7, records=10, skipped={"missing image": 2, "no boxes": 1}).summary()
        '7 rows from 10 records; skipped 3: missing image (2), no boxes (1)'
        """
        line = f"{self.rows} rows from {self.records} records"
        if self.skipped:
            line += f"; skipped {_summary(self.skipped)}"
        if self.parts:
            line += f"; left out of records {_summary(self.parts)}"
        return line

    @classmethod
    def total(cls, reports: Iterable["WriteReport"]) -> "WriteReport":
        """One report of several, such as those of the shards of a dataset.

        Args:
            reports (iterable of `WriteReport`): the reports.

        Returns:
            `WriteReport`: their sums; examples of as many reasons as fit.

        Example:
        >>> WriteReport.total([WriteReport(rows=2, records=3), WriteReport(rows=1, records=1)]).summary()
        '3 rows from 4 records'
        """
        total = cls()
        for report in reports:
            total.rows += report.rows
            total.records += report.records
            for counts, more in ((total.skipped, report.skipped), (total.parts, report.parts)):
                for reason, count in more.items():
                    counts[reason] = counts.get(reason, 0) + count
            total.examples += report.examples
            total.files += report.files
        # From the end: an example too many goes, unless it is the only one of its reason and another can give way.
        while len(total.examples) > MAX_EXAMPLES:
            *total.examples, last = total.examples
            if total._reason_of(last[1]) not in [total._reason_of(text) for _, text in total.examples]:
                total._make_room_for(last)
        return total


def _summary(counts: Mapping[str, int]) -> str:
    common = Counter(counts).most_common(MAX_TOLD)
    reasons = ", ".join(f"{reason} ({count})" for reason, count in common)
    return f"{sum(counts.values())}: {reasons}{', ...' if len(counts) > len(common) else ''}"


__all__ = ["WriteReport"]
