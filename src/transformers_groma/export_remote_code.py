"""Makes a model folder that loads with `trust_remote_code=True` where this package is not installed.

    python -m transformers_groma.export_remote_code MODEL_DIR [OUT_DIR]

The folder gets a copy of the modules that the model, its configuration and its processor need, flat as the Hub wants
them, and `auto_map` entries that tell transformers' Auto classes where the classes are. Weights stay as they are.
"""

import argparse
import json
import os
import shutil
import sys
from pathlib import Path

from transformers.dynamic_module_utils import get_relative_import_files

from ._files import complete_folder, write_file

# Which class of which module every Auto class finds, by the model type of the folder.
MODEL_AUTO_MAPS = {
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
}
PROCESSOR_AUTO_MAP = {"AutoProcessor": "processing_groma.GromaProcessor"}
IMAGE_PROCESSOR_AUTO_MAP = {
    "AutoImageProcessor": {
        "pil": "image_processing_pil_groma.GromaImageProcessorPil",
        "torchvision": "image_processing_groma.GromaImageProcessor",
    }
}


def remote_code_files() -> list[Path]:
    """The modules of this package that a folder with remote code needs: the entry points and all they import.

    Returns:
        `list[Path]`: files, sorted by name.

    Example:
    >>> from transformers_groma.export_remote_code import remote_code_files
    >>> [path.name for path in remote_code_files()][:2]
    ['boxes.py', 'configuration_groma.py']
    """
    package = Path(__file__).parent
    classes = [name for auto_map in MODEL_AUTO_MAPS.values() for name in auto_map.values()]
    classes += [*PROCESSOR_AUTO_MAP.values(), *IMAGE_PROCESSOR_AUTO_MAP["AutoImageProcessor"].values()]
    entries = {package / f"{name.split('.')[0]}.py" for name in classes}
    # transformers' own reading of the imports, because its loader copies exactly these files.
    imported = {Path(path) for entry in entries for path in get_relative_import_files(entry)}
    return sorted(entries | imported)


def export_remote_code(model_dir: str | os.PathLike, output_dir: str | os.PathLike | None = None) -> Path:
    """Add the code of this package to a model folder, so that it loads where the package is not installed.

    Args:
        model_dir (`str` or `Path`): folder of a Groma or of a stage-1 detector, as `save_pretrained` or `groma convert`
            write it; with or without a processor.
        output_dir (`str` or `Path`, *optional*): new or empty folder for a copy, which appears only when it is complete.
            Without it the code is added to `model_dir`, code first, so that it loads at every moment.

    Returns:
        `Path`: the folder with the code.

    Raises:
        FileNotFoundError: `model_dir` has no config.json.
        ValueError: its model is no Groma.
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
    config_file = model_dir / "config.json"
    if not config_file.is_file():
        raise FileNotFoundError(f"`model_dir` {model_dir} has no config.json: pass the folder of a saved model.")
    model_type = json.loads(config_file.read_text(encoding="utf-8")).get("model_type")
    if model_type not in MODEL_AUTO_MAPS:
        raise ValueError(
            f"`model_dir` {model_dir} holds a model of type {model_type!r}, but only {' and '.join(MODEL_AUTO_MAPS)} have "
            "code here. Convert a checkpoint of the original with `groma convert` first."
        )
    if output_dir is None or Path(output_dir).resolve() == model_dir.resolve():
        _add_code(model_dir, model_type)
        return model_dir
    with complete_folder(output_dir, overwrite=False, sources=[model_dir]) as folder:
        shutil.copytree(model_dir, folder, dirs_exist_ok=True)
        _add_code(folder, model_type)
    return Path(output_dir)


def _add_code(folder: Path, model_type: str) -> None:
    for source in remote_code_files():
        write_file(folder / source.name, source.read_bytes())
    for name, auto_map in (
        ("config.json", MODEL_AUTO_MAPS[model_type]),
        ("processor_config.json", PROCESSOR_AUTO_MAP),
        ("preprocessor_config.json", IMAGE_PROCESSOR_AUTO_MAP),
    ):
        file = folder / name
        if not file.is_file():
            continue
        content = json.loads(file.read_text(encoding="utf-8"))
        _update_auto_map(content, auto_map)
        if "image_processor" in content:
            _update_auto_map(content["image_processor"], IMAGE_PROCESSOR_AUTO_MAP)
        write_file(file, (json.dumps(content, indent=2, sort_keys=True) + "\n").encode())


def _update_auto_map(content: dict, auto_map: dict) -> None:
    content["auto_map"] = {**content.get("auto_map", {}), **auto_map}


def main(argv: list[str] | None = None) -> int:
    """The command line of this module; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m transformers_groma.export_remote_code",
        description="Add this package's code to a model folder, for `trust_remote_code=True`.",
        epilog="example: python -m transformers_groma.export_remote_code groma-7b groma-7b-remote",
    )
    parser.add_argument("model_dir", metavar="MODEL_DIR", help="folder of a Groma model or a stage-1 detector")
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
