"""Exports the code into a model folder, so that it loads with `trust_remote_code=True` without this package.

    python -m transformers_groma.export_remote_code MODEL_DIR [OUT_DIR]

The folder gets a copy of the modules that the model, its configuration and its processor need, flat as the Hub wants
them, and `auto_map` entries that tell transformers' Auto classes where the classes are. Weights stay as they are.
"""

import argparse
import ast
import json
import os
import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from transformers.utils import logging

from ._files import write_file
from ._folders import complete_folder
from .model_files import INDEX_FILE, PICKLED_WEIGHTS, WEIGHTS_FILE, checked_file, model_files, read_json

logger = logging.get_logger(__name__)

PACKAGE = Path(__file__).parent


@dataclass(frozen=True)
class RemoteFamily:
    """A model family whose code can be exported: which class of which of its modules every Auto class finds.

    Attributes:
        folder (`str`): its folder in `models/`.
        models (`dict[str, dict[str, str]]`): entries of config.json by the model type.
        processor, image_processor (`dict`): entries of processor_config.json and of its image processor.
    """

    folder: str
    models: dict[str, dict[str, str]]
    processor: dict[str, str]
    image_processor: dict[str, dict[str, str]]

    def entries(self) -> list[str]:
        """The modules that the entries name."""
        names = [name for auto_map in self.models.values() for name in auto_map.values()]
        names += [
            *self.processor.values(),
            *(name for kinds in self.image_processor.values() for name in kinds.values()),
        ]
        return sorted({name.split(".")[0] for name in names})


FAMILIES = (
    RemoteFamily(
        folder="groma",
        models={
            "groma": {
                "AutoConfig": "configuration_groma.GromaConfig",
                "AutoModel": "modeling_groma.GromaModel",
                "AutoModelForImageTextToText": "modeling_groma.GromaForConditionalGeneration",
                "AutoModelForMultimodalLM": "modeling_groma.GromaForConditionalGeneration",
            },
            "groma_region_proposal": {
                "AutoConfig": "configuration_groma.GromaRegionProposalConfig",
                "AutoModel": "modeling_groma_detector.GromaForRegionProposal",
                "AutoModelForObjectDetection": "modeling_groma_detector.GromaForRegionProposal",
            },
        },
        processor={"AutoProcessor": "processing_groma.GromaProcessor"},
        image_processor={
            "AutoImageProcessor": {
                "pil": "image_processing_pil_groma.GromaImageProcessorPil",
                "torchvision": "image_processing_groma.GromaImageProcessor",
            }
        },
    ),
    RemoteFamily(
        folder="glamm",
        models={
            "glamm": {
                "AutoConfig": "configuration_glamm.GlammConfig",
                "AutoModel": "modeling_glamm.GlammModel",
                "AutoModelForImageTextToText": "modeling_glamm.GlammForConditionalGeneration",
                "AutoModelForMultimodalLM": "modeling_glamm.GlammForConditionalGeneration",
            },
        },
        processor={"AutoProcessor": "processing_glamm.GlammProcessor"},
        image_processor={
            "AutoImageProcessor": {
                "pil": "image_processing_pil_glamm.GlammImageProcessorPil",
                "torchvision": "image_processing_glamm.GlammImageProcessor",
            }
        },
    ),
)
FAMILY_OF = {model_type: family for family in FAMILIES for model_type in family.models}


def remote_code_files(family: RemoteFamily) -> dict[str, str]:
    """The modules of this package that a folder with remote code needs, flat: the entry points and all they import.

    The package has folders, a folder on the Hub has none: each module gets its own name there, and `from ...boxes
    import` becomes `from .boxes import`.

    Args:
        family (`RemoteFamily`): the family of the folder's model.

    Returns:
        `dict[str, str]`: the text of each file by its name, in the order of the names.

    Raises:
        ValueError: two modules share a name, or a module imports something that is not a module with that name.

    Example:
    >>> from transformers_groma.export_remote_code import FAMILY_OF, remote_code_files
    >>> "modeling_groma.py" in remote_code_files(FAMILY_OF["groma"])
    True
    """
    folder = PACKAGE / "models" / family.folder
    return flatten([folder / f"{name}.py" for name in family.entries()], PACKAGE)


def flatten(entries: Iterable[Path], package: Path) -> dict[str, str]:
    """Flatten modules, and everything they import from their package, into one folder.

    Args:
        entries (`Iterable[Path]`): the files to begin with.
        package (`Path`): folder of the package; imports that lead out of it are an error.

    Returns:
        `dict[str, str]`: the text of each file by its name, in the order of the names.

    Raises:
        ValueError: two modules share a name, or a relative import is not one of names from a module.
    """
    waiting, sources = [path.resolve() for path in entries], {}
    package = package.resolve()
    while waiting:
        path = waiting.pop()
        known = sources.get(path.name)
        if known is None:
            text, imported = _flattened(path, package)
            sources[path.name] = (path, text)
            waiting += imported
        elif known[0] != path:
            raise ValueError(
                f"{known[0]} and {path} would be one file {path.name!r} in a flat folder. Rename one of them."
            )
    return {name: text for name, (_, text) in sorted(sources.items())}


def _flattened(path: Path, package: Path) -> tuple[str, list[Path]]:
    """The source of a module with its relative imports rewritten, and the files that these import."""
    lines, imported = path.read_text(encoding="utf-8").splitlines(keepends=True), []
    for node in ast.walk(ast.parse("".join(lines), path.name)):
        if not isinstance(node, ast.ImportFrom) or node.level == 0:
            continue
        target = path.parents[node.level - 1].joinpath(*(node.module or "").split(".")).with_suffix(".py")
        written = f"from {'.' * node.level}{node.module} import"
        is_module = node.module and target.is_file() and target.is_relative_to(package)
        if not is_module or written not in lines[node.lineno - 1]:
            raise ValueError(
                f"{path}, line {node.lineno}: a flat folder needs imports of the form `from ..module import name`, "
                f"with a module of {package.name}."
            )
        imported.append(target)
        # The names on further lines of the statement stay as they are.
        lines[node.lineno - 1] = lines[node.lineno - 1].replace(written, f"from .{target.stem} import")
    return "".join(lines), imported


def export_remote_code(model_dir: str | os.PathLike, output_dir: str | os.PathLike | None = None) -> Path:
    """Add this package's code to a model folder, so that it loads without the package.

    A copy gets the files of the model that `model_files.py` lists, and no others: anything else in the folder (keys,
    the history of git, optimizer states) stays behind, and so does the user's own code. Entries of `auto_map` for
    other Auto classes than ours keep their names; a warning says which entries and files are replaced, and which code
    a kept entry needs.

    Args:
        model_dir (`str` or `Path`): folder of a Groma, of a stage-1 detector or of a GLaMM, as `save_pretrained` or
            `groma convert` write it; with or without a processor.
        output_dir (`str` or `Path`, *optional*): new or empty folder for a copy, which appears only when it is
            complete. Without it the code is added to `model_dir`, code first, so that it loads at every moment.

    Returns:
        `Path`: the folder with the code.

    Raises:
        FileNotFoundError: `model_dir` has no config.json.
        ValueError: its model is of neither family, its files cannot be read, its weights are pickles, or a file of it
            is a link that leads out of the folder.
        FileExistsError: `output_dir` holds files.

    Example:
    ```python
    export_remote_code("groma-7b", "groma-7b-remote")
    # where the package is not installed:
    model = AutoModelForImageTextToText.from_pretrained("groma-7b-remote", trust_remote_code=True)
    processor = AutoProcessor.from_pretrained("groma-7b-remote", trust_remote_code=True)
    ```
    """
    model_dir = Path(model_dir)
    # All that can be wrong with the folder is found before anything is written.
    contents = remote_code_contents(model_dir)
    files = model_files(model_dir)
    if output_dir is None or Path(output_dir).resolve() == model_dir.resolve():
        _add_code(model_dir, contents)
        return model_dir
    pickled = [name for name in PICKLED_WEIGHTS if (model_dir / name).exists()]
    if pickled and not {WEIGHTS_FILE, INDEX_FILE} & {path.name for path in files}:
        raise ValueError(
            f"The weights of {model_dir} are a pickle, {pickled[0]}, which runs code when it is loaded and is not "
            "copied. Load the model and save it again, as safetensors."
        )
    with complete_folder(output_dir, overwrite=False, sources=[model_dir]) as folder:
        for path in files:
            shutil.copyfile(path, folder / path.name)
        _add_code(folder, contents)
    return Path(output_dir)


def remote_code_contents(model_dir: str | os.PathLike) -> dict[str, bytes]:
    """The files that make a model folder load without this package: the code, and the settings that name it.

    Args:
        model_dir (`str` or `Path`): as for [`export_remote_code`].

    Returns:
        `dict[str, bytes]`: by their names, code first; config.json and the processor's files have `auto_map` entries.

    Raises:
        FileNotFoundError: `model_dir` has no config.json.
        ValueError: its model is of neither family, or a file cannot be read.

    Example:
    >>> contents = remote_code_contents("hub_configs/groma-tiny")
    >>> json.loads(contents["config.json"])["auto_map"]["AutoConfig"]
    'configuration_groma.GromaConfig'
    """
    model_dir = Path(model_dir)
    config_file = model_dir / "config.json"
    if not config_file.is_file():
        raise FileNotFoundError(f"`model_dir` {model_dir} has no config.json: pass the folder of a saved model.")
    model_type = read_json(checked_file(model_dir, config_file.name)).get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILY_OF:
        raise ValueError(
            f"`model_dir` {model_dir} holds a model of type {model_type!r}, but only {' and '.join(FAMILY_OF)} "
            "have code here. Convert a checkpoint of the original with `groma convert` first."
        )
    settings = _contents_with_auto_map(model_dir, model_type)
    return {
        **{name: text.encode() for name, text in remote_code_files(FAMILY_OF[model_type]).items()},
        **{
            name: (json.dumps(content, indent=2, sort_keys=True) + "\n").encode() for name, content in settings.items()
        },
    }


def own_code(model_dir: str | os.PathLike) -> dict[str, bytes]:
    """The code in a model folder that its settings name, with what it imports from the folder.

    Args:
        model_dir (`str` or `Path`): folder of a model.

    Returns:
        `dict[str, bytes]`: by the names of the files; empty if no `auto_map` names code here.

    Raises:
        ValueError: a file that is named is missing.

    Example:
    >>> own_code("hub_configs/groma-tiny")
    {}
    """
    model_dir, entries = Path(model_dir), set()
    for name in ("config.json", "processor_config.json", "preprocessor_config.json"):
        if (model_dir / name).is_file():
            content = read_json(checked_file(model_dir, name))
            nested = content.get("image_processor")
            for part in (content, nested if isinstance(nested, dict) else {}):
                entries |= set(_named_modules(part.get("auto_map")))
    for entry in sorted(entries):
        if not (model_dir / f"{entry}.py").is_file():
            raise ValueError(
                f"`auto_map` of {model_dir} names the code {entry}.py, which is not there: add the code "
                "(`--remote-code`, or `python -m transformers_groma.export_remote_code`)."
            )
    return {name: text.encode() for name, text in flatten(_paths(model_dir, entries), model_dir).items()}


def _paths(folder: Path, names: Iterable[str]) -> list[Path]:
    return [checked_file(folder, f"{name}.py") for name in sorted(names)]


def _named_modules(auto_map: object) -> Iterable[str]:
    """The modules of a folder that an `auto_map` names; `repo--module.Class` is elsewhere."""
    values = auto_map.values() if isinstance(auto_map, dict) else ()
    for value in values:
        for name in value.values() if isinstance(value, dict) else [value]:
            if isinstance(name, str) and "--" not in name:
                yield name.split(".")[0]


def _add_code(folder: Path, contents: dict[str, bytes]) -> None:
    for name, content in contents.items():
        target = folder / name
        if name.endswith(".py") and target.is_file() and target.read_bytes() != content:
            logger.warning(f"{target} is replaced: the folder's own file differs from the code of this package.")
        write_file(target, content)


def _contents_with_auto_map(folder: Path, model_type: str) -> dict[str, dict]:
    """The configuration files of a folder with the entries for our classes, by their names."""
    family, contents = FAMILY_OF[model_type], {}
    for name, auto_map in (
        ("config.json", family.models[model_type]),
        ("processor_config.json", family.processor),
        ("preprocessor_config.json", family.image_processor),
    ):
        if not os.path.lexists(folder / name):
            continue
        content = read_json(checked_file(folder, name))
        _update_auto_map(content, auto_map, folder / name)
        if isinstance(content.get("image_processor"), dict):
            _update_auto_map(content["image_processor"], family.image_processor, folder / name)
        contents[name] = content
    return contents


def _update_auto_map(content: dict, auto_map: dict, path: Path) -> None:
    """Put our entries into `auto_map`. Others stay; warnings say what is replaced and what needs other code."""
    own = content.get("auto_map") or {}
    if not isinstance(own, dict):
        raise ValueError(f"`auto_map` of {path} is {own!r}, not an object. Remove it or save the model again.")
    for key, value in own.items():
        if key not in auto_map:
            logger.warning(
                f"`auto_map` of {path} keeps its entry {key!r}: {value!r}. Its code is not copied; add it yourself if "
                "you need it."
            )
        elif value != auto_map[key]:
            logger.warning(f"`auto_map` of {path}: {value!r} of {key!r} is replaced by {auto_map[key]!r}.")
    content["auto_map"] = {**own, **auto_map}


def main(argv: list[str] | None = None) -> int:
    """The command line of this module; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m transformers_groma.export_remote_code",
        description="Add this package's code to a model folder, for `trust_remote_code=True`.",
        epilog="example: python -m transformers_groma.export_remote_code groma-7b groma-7b-remote",
    )
    parser.add_argument("model_dir", metavar="MODEL_DIR", help="folder of a Groma, a stage-1 detector or a GLaMM")
    parser.add_argument("output_dir", metavar="OUT_DIR", nargs="?", help="new folder; MODEL_DIR itself without it")
    arguments = parser.parse_args(argv)
    try:
        print(export_remote_code(arguments.model_dir, arguments.output_dir))
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
