"""The command line of all stages: datasets, YAML files with overrides, errors that name options."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import TrainingArguments
from trl import TrlParser

from ..data.columns import Schema
from ..data.mixtures import load_mixture
from ..hub_models import loading_model


@dataclass
class DataArguments:
    """How any stage reads its data, and what it evaluates on.

    Args:
        eval_datasets (`list[str]`): `PATH[@SPLIT][:RATIO]` for each dataset to evaluate on during training: a folder
            with Parquet files, a Parquet file or a Hub name; its split, `validation` by default; and the share of its
            rows to use.
        mixture_seed (`int`): seed of the choice of rows where a ratio is below 1.
        check_data (`bool`): whether to put every row through all that training does with it before training starts,
            and stop with a list of the rows that fail.
        max_eval_rows (`int`, *optional*): evaluate on at most this many rows of `eval_datasets`.
    """

    eval_datasets: list[str] = field(
        default_factory=list,
        metadata={"help": "PATH[@SPLIT][:RATIO] for each dataset to evaluate on; split `validation` by default."},
    )
    mixture_seed: int = field(default=0, metadata={"help": "Seed for choosing rows if a ratio is below 1."})
    check_data: bool = field(
        default=False,
        metadata={"help": "Before training, put every row through the whole data path, and list the rows that fail."},
    )
    max_eval_rows: int | None = field(default=None, metadata={"help": "Maximum number of rows to evaluate on."})

    def __post_init__(self):
        # A YAML file may name a single one without brackets.
        self.eval_datasets = as_list(self.eval_datasets)


@dataclass
class DatasetArguments(DataArguments):
    """The data that a stage trains on.

    Args:
        train_datasets (`list[str]`): `PATH[@SPLIT][:RATIO]` for each dataset of the mixture: a folder with Parquet
            files, a Parquet file or a Hub name; its split; and the share of its rows to use.
        eval_datasets, mixture_seed, check_data, max_eval_rows: see [`DataArguments`].
    """

    train_datasets: list[str] = field(
        default_factory=list, metadata={"help": "PATH[@SPLIT][:RATIO] for each dataset of the mixture."}
    )

    def __post_init__(self):
        super().__post_init__()
        self.train_datasets = as_list(self.train_datasets)


def as_list(values: str | Sequence[str] | None) -> list[str]:
    """A list argument as YAML may give it: one value, several, or nothing.

    Args:
        values (`str` or `Sequence[str]`, *optional*): the value in the file.

    Returns:
        `list[str]`: the values; empty for nothing.

    Example:
    >>> as_list("data/coco"), as_list(None)
    (['data/coco'], [])
    """
    return [values] if isinstance(values, str) else list(values or ())


class _StageParser(TrlParser):
    """Reports a mistake in one line, without the usage of all arguments."""

    def error(self, message: str) -> None:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")

    def parse_known_args(self, args=None, namespace=None):
        namespace, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return namespace, unknown


def load_datasets(arguments: DatasetArguments, schema: Schema) -> tuple[Dataset, Dataset | None]:
    """Load the datasets of a stage.

    Args:
        arguments (`DatasetArguments`): names them.
        schema (`str`): the columns that they must have, `"detection"` or `"conversation"`.

    Returns:
        `tuple[Dataset, Dataset | None]`: the mixture to train on and, if one is named, that for evaluation.

    Raises:
        FileNotFoundError: a dataset does not exist.
        ValueError: no dataset, or wrong columns.
    """
    with loading("train_datasets"):
        train = load_mixture(arguments.train_datasets, schema, arguments.mixture_seed)
    return train, load_evaluation(arguments, schema)


def load_evaluation(arguments: DataArguments, schema: Schema) -> Dataset | None:
    """Load the datasets to evaluate on during training.

    Args:
        arguments (`DataArguments`): names them.
        schema (`str`): the columns that they must have, `"detection"` or `"conversation"`.

    Returns:
        `Dataset`, *optional*: their rows, at most `max_eval_rows`; `None` if no dataset is named.

    Raises:
        FileNotFoundError: a dataset does not exist.
        ValueError: wrong columns.
    """
    if not arguments.eval_datasets:
        return None
    with loading("eval_datasets"):
        evaluation = load_mixture(arguments.eval_datasets, schema, arguments.mixture_seed, "validation")
    if arguments.max_eval_rows is not None:
        evaluation = evaluation.select(range(min(arguments.max_eval_rows, len(evaluation))))
    return evaluation


@contextmanager
def loading(argument: str, source: str | None = None) -> Iterator[None]:
    """Prefix loading errors in this block with the option that names what is loaded.

    Args:
        argument (`str`): the option without its dashes.
        source (`str`, *optional*): its value, a folder or Hub name; leave it out where errors name it already.

    Raises:
        OSError, ValueError: the error of loading, with option and value in front.

    Example:
    >>> with loading("detector", "no/where"):
    ...     raise OSError("Nothing found.")
    Traceback (most recent call last):
    OSError: --detector 'no/where': Nothing found.
    """
    try:
        with nullcontext() if source is None else loading_model(source):
            yield
    except (OSError, ValueError) as error:
        kind = next(kind for kind in (FileNotFoundError, OSError, ValueError) if isinstance(error, kind))
        value = "" if source is None else f" {source!r}"
        raise kind(f"--{argument}{value}: {error}") from error


def parse_arguments(
    dataclasses: Sequence[type], argv: Sequence[str] | None, prog: str, description: str
) -> tuple[Any, ...]:
    """Read a command line: `--config FILE.yaml` gives values, and the options after it override them.

    Args:
        dataclasses (`Sequence[type]`): the dataclasses whose fields are the options.
        argv (`Sequence[str]`, *optional*): the command line without the program's name; `sys.argv[1:]` by default.
        prog (`str`): name of the program, for help and errors.
        description (`str`): what the program does, for help.

    Returns:
        `tuple`: an object of each dataclass.

    Raises:
        ValueError: the YAML file is missing or names an unknown option, or a Hub token is among the arguments.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    for position, argument in enumerate(argv):
        if argument.startswith("--config="):
            argv[position : position + 1] = argument.split("=", maxsplit=1)
    if "--config" in argv:
        position = argv.index("--config")
        if position + 1 == len(argv) or not Path(argv[position + 1]).is_file():
            raise ValueError(
                f"--config {' '.join(argv[position + 1 : position + 2])} is not a file. Name a YAML file, such as "
                "those in hub_configs/recipes."
            )
    if not torch.accelerator.is_available() and any(issubclass(kind, TrainingArguments) for kind in dataclasses):
        # The trainer would use the CPU anyway, but refuses recipes with bf16 unless this is set.
        argv += ["--use_cpu", "true"]
    parser = _StageParser(dataclasses, prog=prog, description=description)
    parsed = parser.parse_args_and_config(args=argv)
    for part in parsed:
        if isinstance(part, TrainingArguments):
            refuse_hub_token(part)
    return parsed


def refuse_hub_token(args: TrainingArguments) -> None:
    """Refuse a Hub token among the arguments: `Trainer` writes all of them into `training_args.bin`, a file to share.

    Args:
        args (`TrainingArguments`): the arguments of a training.

    Raises:
        ValueError: `hub_token` is set; the message does not repeat it.

    Example:
    >>> refuse_hub_token(TrainingArguments(use_cpu=True))
    """
    if args.hub_token is not None:
        raise ValueError(
            "`hub_token` would be written into `training_args.bin` with the training's arguments. Leave it out, and "
            "log in with `hf auth login` or set the environment variable HF_TOKEN."
        )


def data_seed(args: TrainingArguments) -> int:
    """The seed of the order of rows and of what is random about them.

    Args:
        args (`TrainingArguments`): `data_seed`, or else `seed`, is read.

    Returns:
        `int`: the seed.

    Example:
    >>> data_seed(TrainingArguments(seed=3, use_cpu=True))
    3
    """
    return args.seed if args.data_seed is None else args.data_seed


__all__ = [
    "DataArguments",
    "DatasetArguments",
    "as_list",
    "data_seed",
    "load_datasets",
    "load_evaluation",
    "loading",
    "parse_arguments",
    "refuse_hub_token",
]
