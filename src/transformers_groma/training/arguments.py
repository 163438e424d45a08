"""What the command lines of all training stages share: datasets, YAML files with overrides."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import TrainingArguments
from trl import TrlParser

from ..data.columns import Schema
from ..data.mixtures import load_mixture


@dataclass
class DatasetArguments:
    """Which data a stage trains on.

    Args:
        train_datasets (`list[str]`): `PATH[@SPLIT][:RATIO]` for each dataset of the mixture: a folder with Parquet
            files, a Parquet file or a Hub name; the share of its rows that is used.
        eval_datasets (`list[str]`): the same for evaluation during training; the split is `validation` by default.
        mixture_seed (`int`): which rows a ratio below 1 takes.
        check_data (`bool`): whether to put every row through all that training does with it, and end with a list of
            those that would stop it.
        max_eval_rows (`int`, *optional*): evaluate on so many rows of `eval_datasets` at most.
    """

    train_datasets: list[str] = field(
        default_factory=list, metadata={"help": "PATH[@SPLIT][:RATIO] for each dataset of the mixture."}
    )
    eval_datasets: list[str] = field(
        default_factory=list, metadata={"help": "The same for evaluation; split `validation` by default."}
    )
    mixture_seed: int = field(default=0, metadata={"help": "Which rows a ratio below 1 takes."})
    check_data: bool = field(
        default=False,
        metadata={"help": "Put every row through all that training does with it, and list those that would stop it."},
    )
    max_eval_rows: int | None = field(default=None, metadata={"help": "Evaluate on so many rows at most."})

    def __post_init__(self):
        # A YAML file may name a single one without brackets.
        self.train_datasets = as_list(self.train_datasets)
        self.eval_datasets = as_list(self.eval_datasets)


def as_list(values: str | Sequence[str] | None) -> list[str]:
    """What a YAML file gave for a list: one value, several, or nothing.

    Args:
        values (`str` or `Sequence[str]`, *optional*): as read.

    Returns:
        `list[str]`.

    Example:
    >>> as_list("data/coco"), as_list(None)
    (['data/coco'], [])
    """
    return [values] if isinstance(values, str) else list(values or ())


class _StageParser(TrlParser):
    """Reports a mistake in one line, without the names of all arguments."""

    def error(self, message: str) -> None:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")

    def parse_known_args(self, args=None, namespace=None):
        namespace, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return namespace, unknown


def load_datasets(arguments: DatasetArguments, schema: Schema) -> tuple[Dataset, Dataset | None]:
    """The datasets of a stage.

    Args:
        arguments (`DatasetArguments`): which ones.
        schema (`str`): whose columns they have.

    Returns:
        `tuple[Dataset, Dataset | None]`: for training and, if named, for evaluation.

    Raises:
        FileNotFoundError: a dataset that is not there.
        ValueError: no dataset, or wrong columns.
    """
    with loading("train_datasets"):
        train = load_mixture(arguments.train_datasets, schema, arguments.mixture_seed)
    if not arguments.eval_datasets:
        return train, None
    with loading("eval_datasets"):
        evaluation = load_mixture(arguments.eval_datasets, schema, arguments.mixture_seed, "validation")
    if arguments.max_eval_rows is not None:
        evaluation = evaluation.select(range(min(arguments.max_eval_rows, len(evaluation))))
    return train, evaluation


@contextmanager
def loading(argument: str, source: str | None = None) -> Iterator[None]:
    """Errors of loading begin with the argument that names what is loaded; the library's own do not always name one.

    Args:
        argument (`str`): the option without its dashes.
        source (`str`, *optional*): its value, a folder or Hub name; left out where errors name it.

    Raises:
        OSError, ValueError: those of loading, with argument and value.

    Example:
    >>> with loading("detector", "no/where"):
    ...     raise OSError("Nothing found.")
    Traceback (most recent call last):
    OSError: --detector 'no/where': Nothing found.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        kind = next(kind for kind in (FileNotFoundError, OSError, ValueError) if isinstance(error, kind))
        value = "" if source is None else f" {source!r}"
        raise kind(f"--{argument}{value}: {error}") from error


def parse_arguments(
    dataclasses: Sequence[type], argv: Sequence[str] | None, prog: str, description: str
) -> tuple[Any, ...]:
    """Read a command line: `--config FILE.yaml` gives values, everything behind it overrides them.

    Args:
        dataclasses (`Sequence[type]`): one object of each is made.
        argv (`Sequence[str]`, *optional*): arguments without the program's name; those of the process by default.
        prog (`str`): name of the program, for help and errors.
        description (`str`): for help.

    Returns:
        `tuple`: an object of each dataclass.

    Raises:
        ValueError: the YAML file is missing, or names an argument that does not exist; a token of the Hub is among the
            arguments.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    for position, argument in enumerate(argv):
        if argument.startswith("--config="):
            argv[position : position + 1] = argument.split("=", maxsplit=1)
    if "--config" in argv:
        position = argv.index("--config")
        if position + 1 == len(argv) or not Path(argv[position + 1]).is_file():
            raise ValueError(
                f"--config {' '.join(argv[position + 1 : position + 2])} is not a file. Name a YAML file, as those in "
                "hub_configs/recipes."
            )
    if not torch.accelerator.is_available() and any(issubclass(kind, TrainingArguments) for kind in dataclasses):
        # The trainer would use the CPU in any case, but refuse recipes with bf16 unless it is told.
        argv += ["--use_cpu", "true"]
    parser = _StageParser(dataclasses, prog=prog, description=description)
    parsed = parser.parse_args_and_config(args=argv)
    for part in parsed:
        if isinstance(part, TrainingArguments):
            refuse_hub_token(part)
    return parsed


def refuse_hub_token(args: TrainingArguments) -> None:
    """Refuse a token of the Hub among the arguments: `Trainer` writes them all into `training_args.bin`, which is easily shared.

    Args:
        args (`TrainingArguments`): of a training.

    Raises:
        ValueError: `hub_token` is set; the message does not hold it.

    Example:
    >>> refuse_hub_token(TrainingArguments(use_cpu=True))
    """
    if args.hub_token is not None:
        raise ValueError(
            "`hub_token` would be written into `training_args.bin` with the training's arguments. Leave it out, and "
            "log in with "
            "`hf auth login` or set the environment variable HF_TOKEN."
        )


__all__ = ["DatasetArguments", "as_list", "parse_arguments", "refuse_hub_token"]
