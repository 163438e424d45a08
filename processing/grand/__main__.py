"""GranD's annotation pipeline on models of your choice, in the levels of the GLaMM paper (section 4).

Each step is a job of its own: `python -m processing.grand.STEP --help` says what it does and which models it takes.
All steps read a folder of images and write into one work folder, where their columns are in Parquet files beside each
other; `export` makes GranD's JSON files of them. Every step resumes, and notices what has changed before it.

All steps, one after the other, with the models and options of a YAML file:

python -m processing.grand photos data/grand --config grand.yaml

steps:
  images: {shards: 4}
  landmark: {model: Qwen/Qwen2.5-VL-3B-Instruct}
  depth: {model: depth-anything/Depth-Anything-V2-Small-hf}
  tags: {model: Qwen/Qwen2.5-VL-3B-Instruct}
  detect:                                            # runs under several names
    grounding-dino: {model: IDEA-Research/grounding-dino-base}
    owlv2: {model: google/owlv2-base-patch16-ensemble}
  objects: {lone-score: 0.5}
  dense_caption: {task: endpoint, model: some-model, base-url: "http://localhost:8000/v1"}

Options are those of the command line of each step, with their names. Steps that the file does not name do not run;
those without a model ({without_model}) run where the steps that they need do.

Exit status: 0 done, 1 rows or answers are missing (run again), 2 options or files are wrong, 130 interrupted.

The steps, in their order:

{steps}
"""

import importlib
import json
import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers_groma._text import read_text

# In the order in which they run.
STEPS = (
    *("images", "landmark", "depth", "tags", "detect", "objects", "attributes"),
    *("captions", "ground_phrases", "relations"),
    *("scene_graph", "dense_caption", "extra_context", "masks", "export"),
)
# These need no option, and run whether the file names them or not, after the steps that they need.
WITHOUT_MODEL = ("images", "objects", "relations", "scene_graph", "export")


def plan(config: Any, path: Path) -> list[tuple[str, list[str]]]:
    """The steps that a configuration asks for, each with its arguments behind the two folders.

    Args:
        config: what the YAML file holds, unchecked.
        path (`Path`): the file, for messages.

    Returns:
        `list[tuple[str, list[str]]]`: name of the step, and its arguments.

    Raises:
        ValueError: another layout, or a step that does not exist.

    Example:
    >>> plan({"steps": {"depth": {"model": "org/midas"}, "objects": {"detectors": ["a", "b"]}}}, Path("x.yaml"))
    [('images', []), ('depth', ['--model', 'org/midas']), ('objects', ['--detectors', 'a', 'b'])]
    """
    steps = config.get("steps") if isinstance(config, Mapping) else None
    if not isinstance(steps, Mapping) or len(config) > 1:
        raise ValueError(f"{path} must have one key, `steps`, and below it the steps by name with their options.")
    if unknown := [str(name) for name in steps if name not in STEPS]:
        raise ValueError(f"{path} names the step `{unknown[0]}`. The steps are {', '.join(STEPS)}.")
    found: list[tuple[str, list[str]]] = []
    for name in STEPS:
        options, step = steps.get(name), _module(name).STEP
        if options is None and name not in WITHOUT_MODEL:
            if name in steps:
                raise ValueError(f"{path}: the step `{name}` needs options, such as {{model: NAME}}.")
            continue
        if name not in steps and not set(step.needs) <= {known for known, _ in found}:
            continue
        if step.named:
            found += [(name, ["--name", str(run), *words]) for run, words in _each_run(name, options, path)]
        else:
            found.append((name, _arguments(options or {}, f"{path}: `{name}`")))
    return found


def _each_run(name: str, runs: Any, path: Path) -> Iterator[tuple[str, list[str]]]:
    if not isinstance(runs, Mapping) or not all(isinstance(options, Mapping) for options in runs.values()):
        raise ValueError(
            f"{path}: below `{name}` there must be names, and below each the options of this run, such as "
            "owlv2: {model: google/owlv2-base-patch16-ensemble}."
        )
    for run, options in runs.items():
        yield run, _arguments(options, f"{path}: `{name}.{run}`")


def _arguments(options: Any, where: str) -> list[str]:
    """Options as the command line has them."""
    if not isinstance(options, Mapping):
        raise ValueError(f"{where} must be options with their values, got {options!r}.")
    words: list[str] = []
    for option, value in options.items():
        flag = f"--{str(option).replace('_', '-')}"
        if value is True:
            words.append(flag)
        elif isinstance(value, Mapping):
            words += [flag, json.dumps(value)]
        elif isinstance(value, list):
            words += [flag, *map(str, value)]
        elif value is not None and value is not False:
            words += [flag, str(value)]
    return words


def main(argv: Sequence[str] | None = None) -> int:
    """Run all steps that a configuration names; the exit status is that of the worst."""
    args = build_parser().parse_args(argv)
    try:
        steps = plan(_read_yaml(args.config), args.config)
        check_plan(steps, args)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    worst = 0
    for name, words in steps:
        status = _module(name).main([str(args.images), str(args.work), *words, *_shared(args)])
        worst = max(worst, status)
        # After wrong options nothing can follow. Where answers are missing, what is there is annotated all the same.
        if status > 1:
            break
    return worst


def check_plan(steps: Sequence[tuple[str, Sequence[str]]], args: Any) -> None:
    """Check the options of all steps before the first one runs.

    Raises:
        ValueError: a wrong option; the message names the step.
    """
    from processing.grand.job import step_parser

    for name, words in steps:
        parser = step_parser(_module(name).STEP, None)

        def refuse(message: str, name: str = name) -> None:
            raise ValueError(f"{args.config}: step `{name}`: {message}. `python -m processing.grand.{name} --help`")

        parser.error = refuse
        parser.parse_args([str(args.images), str(args.work), *words, *_shared(args)])


def _shared(args: Any) -> list[str]:
    """Options of all steps."""
    return ["--overwrite"] if args.overwrite else []


def _module(name: str) -> Any:
    return importlib.import_module(f"processing.grand.{name}")


def _read_yaml(path: Path) -> Any:
    import yaml

    try:
        return yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML ({' '.join(str(error).split())}).") from None


def build_parser() -> ArgumentParser:
    """The command line of the whole pipeline."""
    lines = []
    for name in STEPS:
        step = _module(name).STEP
        level = f"level {step.level}" if step.level else ""
        lines.append(f"  {name:<16}{level:<9}{step.does}")
    parser = ArgumentParser(
        prog="python -m processing.grand",
        description=__doc__.replace("{without_model}", ", ".join(WITHOUT_MODEL)).replace("{steps}", "\n".join(lines)),
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("images", type=Path, metavar="IMAGES", help="folder of the images")
    parser.add_argument("work", type=Path, metavar="WORK", help="work folder of all steps")
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="YAML: the steps and their options")
    parser.add_argument("--overwrite", action="store_true", help="replace rows of other settings")
    return parser


if __name__ == "__main__":
    sys.exit(main())
