"""`--check_data`: puts every row through the whole data path, and reports the rows that would stop training."""

import os
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from tqdm import tqdm

from .._words import counted
from ..data.columns import check_row
from ..data.mixtures import MixturePart
from ..models.modeling_positions import IGNORED_LABEL
from .collators import ChatCollator

MAX_LISTED_ROWS = 20
# What may differ between two rows with the same fault: numbers, quoted names, addresses.
_DETAILS = re.compile(r"0x[0-9a-f]+|-?\d+(\.\d+)?|'[^']*'|\"[^\"]*\"")


@dataclass
class _Fault:
    """Rows of one dataset with the same fault."""

    example: str  # the message about the first of them
    rows: list[int] = field(default_factory=list)


class _Report:
    """The faults found in the rows of a mixture."""

    def __init__(self) -> None:
        self.faults: dict[tuple[str, str], _Fault] = {}
        self.first = ""
        self.num_rows = 0
        self.num_bad = 0

    def add(self, path: str, row: int, image_id: Any, reason: str) -> None:
        reason = " ".join(reason.split()).rstrip(".")
        fault = self.faults.setdefault((path, _DETAILS.sub("…", reason)), _Fault(f"(image_id {image_id!r}): {reason}"))
        fault.rows.append(row)
        self.num_bad += 1
        self.first = self.first or f"Row {row} (image_id {image_id!r}) of {path}: {reason}."

    def lines(self) -> Iterable[str]:
        for (path, _), fault in self.faults.items():
            yield f"{path}: row {fault.rows[0]} {fault.example}"
            if more := fault.rows[1:]:
                shown = ", ".join(map(str, more[:MAX_LISTED_ROWS])) + (", …" if len(more) > MAX_LISTED_ROWS else "")
                yield f"  the same in {counted(len(more), 'more row')}: {shown}"


def check_training_rows(
    parts: Iterable[MixturePart],
    check: Callable[[MixturePart, int, Mapping[str, Any]], None],
    limit: int | None = None,
) -> int:
    """Put every row through the whole data path, and report the faults on stderr.

    Args:
        parts (iterable of `MixturePart`): the rows.
        check (`Callable`): takes a part, the index of a row in it, and the row with its image decoded; raises if the
            row would stop training.
        limit (`int`, *optional*): check at most this many rows, as many as training would use.

    Returns:
        `int`: number of rows, all of them without faults.

    Raises:
        ValueError: some rows would stop training. The message names the first; rows are counted from 0.
    """
    report = _Report()
    for part in parts:
        count = len(part.dataset) if limit is None else min(len(part.dataset), limit - report.num_rows)
        without_image = part.dataset.remove_columns("image")
        for index in tqdm(range(count), desc=f"checking {part.spec.path}", unit="row", disable=not _is_main_process()):
            try:
                try:
                    row = part.dataset[index]
                # Pillow raises almost anything about a damaged file.
                except Exception as error:
                    raise ValueError(f"`image` cannot be read ({_named(error)})") from error
                check(part, index, row)
            # Whatever it is, it would stop training as well.
            except Exception as error:
                image_id = without_image[index]["image_id"]
                reason = str(error) if isinstance(error, ValueError) else _named(error)
                report.add(part.spec.path, int(part.rows[index]), image_id, reason)
        report.num_rows += count
    if report.num_bad > 0:
        _say(*report.lines())
        raise ValueError(
            f"`check_data` found {report.num_bad} of {report.num_rows} rows that would stop training, listed "
            f"above. {report.first}"
        )
    _say(f"checked {report.num_rows} rows: none of them would stop training")
    return report.num_rows


class ConversationCheck:
    """Checks a row of the conversation columns, for `check_training_rows`.

    Args:
        collator (`ChatCollator`): the one that training uses.
        max_positions (`int`, *optional*): the longest text that the language model reads, in tokens.

    Attributes:
        num_shortened (`int`): rows so far that lose turns in training.
    """

    def __init__(self, collator: ChatCollator, max_positions: int | None) -> None:
        self.collator = collator
        self.max_positions = max_positions
        self.num_shortened = 0

    def __call__(self, part: MixturePart, index: int, row: Mapping[str, Any]) -> None:
        check_row(row, "conversation")
        self.collator.check(row)
        # The length before anything is cut; a conversation that is too long may lose turns, or be impossible to cut.
        whole = type(self.collator)(self.collator.processor)([row])
        length = whole["input_ids"].shape[1]
        if self.collator.max_length is not None and length > self.collator.max_length:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # reported below, with the number of the row
                whole = self.collator([row])
            self.num_shortened += 1
            length = int(whole["attention_mask"].sum())
            if length > self.collator.max_length:
                raise ValueError(
                    f"even with its first answer alone the conversation has {length} tokens, more than `max_tokens` "
                    f"({self.collator.max_length}), and is not shortened. Raise `max_tokens`, or leave the row out"
                )
        if self.max_positions is not None and length > self.max_positions:
            raise ValueError(
                f"the conversation has {length} tokens, more than the {self.max_positions} that the language model "
                "reads. Lower `max_tokens`"
            )
        if bool((whole["labels"] == IGNORED_LABEL).all()):
            raise ValueError("the answers have no words, so there is nothing to learn")
        for name, values in whole.items():
            if (
                isinstance(values, torch.Tensor)
                and values.is_floating_point()
                and not bool(torch.isfinite(values).all())
            ):
                raise ValueError(f"`{name}` has values that are not finite")

    def say(self) -> None:
        """Report on stderr how many conversations lose turns."""
        if self.num_shortened > 0:
            _say(
                f"{self.num_shortened} conversations are longer than {self.collator.max_length} tokens and lose their "
                "last turns"
            )


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _is_main_process() -> bool:
    return int(os.environ.get("RANK", "0")) == 0


def _say(*lines: str) -> None:
    if _is_main_process():
        print(*lines, sep="\n", file=sys.stderr)


__all__ = ["ConversationCheck", "check_training_rows"]
