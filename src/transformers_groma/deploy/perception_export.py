"""Exports the visual part of a model as ONNX or OpenVINO graphs: images in, tokens and regions out."""

import logging
import warnings
from importlib.util import find_spec
from os import PathLike
from pathlib import Path

import torch

from .._folders import check_output_folder, complete_folder
from ..loading import load_model
from ..loading_options import LoadingOptions
from .graph_notes import note_of, write_note
from .onnx_operators import OPSET, onnx_operators
from .perception_parts import PerceptionPart, perception_parts

FORMATS = ("onnx", "openvino")
_PACKAGES = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("onnx", "onnxscript", "openvino")}
# Any number above 1 stands for any number of images; torch makes constants of 0 and 1.
_EXAMPLES = 2


def export_perception(
    model: str | PathLike[str],
    output_dir: str | PathLike[str],
    format: str = "onnx",
    overwrite: bool = False,
    revision: str | None = None,
) -> Path:
    """Write what a model sees with as a graph for onnxruntime or OpenVINO, which take any number of images.

    The folder has `perception.onnx` (or `.xml` and `.bin`), of a GLaMM also `grounding.onnx`, a note of the model
    that they are of, its configuration and its processor. Weights and numbers are float32. It appears when complete.

    Args:
        model (`str` or path): folder or Hub name of a Groma or a GLaMM.
        output_dir (`str` or path): folder to write; it must be new or empty.
        format (`str`): `"onnx"` or `"openvino"`.
        overwrite (`bool`): replace an `output_dir` that exists.
        revision (`str`, *optional*): branch, tag or commit of a model on the Hub.

    Returns:
        `Path`: `output_dir`.

    Raises:
        ValueError: a package is missing, or another format.
        FileExistsError: `output_dir` holds files and `overwrite` is not set, or a source would be lost with it.
        OSError: no such folder, model or revision.

    Example:
    ```python
    export_perception("groma-7b", "groma-7b-eyes")
    ```
    """
    check_format(format)
    check_output_folder(output_dir, overwrite, [model])
    loaded, processor = load_model(model, "cpu", LoadingOptions(dtype="float32", revision=revision))
    with complete_folder(output_dir, overwrite, sources=[model]) as folder:
        for name, part in perception_parts(loaded).items():
            _write_onnx(part.eval(), folder / f"{name}.onnx")
            if format == "openvino":
                _convert_to_openvino(folder / f"{name}.onnx")
        write_note(folder, note_of(loaded))
        loaded.config.save_pretrained(folder)
        processor.save_pretrained(folder)
    return Path(output_dir)


def check_format(format: str) -> None:
    """Check that a format is known and that what writes it is installed.

    Raises:
        ValueError: it is not.
    """
    if format not in FORMATS:
        raise ValueError(f"`format` must be one of {', '.join(map(repr, FORMATS))}, got {format!r}.")
    for package in _PACKAGES[format]:
        if find_spec(package) is None:
            raise ValueError(
                f'`format={format!r}` needs the package {package}: pip install "transformers-groma[export]".'
            )


@torch.no_grad()
def _write_onnx(part: PerceptionPart, path: Path) -> None:
    pixels = torch.zeros(_EXAMPLES, 3, part.size, part.size)
    program = torch.export.export(
        part, (pixels,), dynamic_shapes=({0: torch.export.Dim("images", min=1)},), strict=False
    )
    # It warns of operators of torchvision, which are not there and not needed.
    registration = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = registration.level
    registration.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exported = torch.onnx.export(
                program,
                dynamo=True,
                optimize=False,  # it stops at an operator of the split of maps, and runtimes optimize by themselves
                verbose=False,
                opset_version=OPSET,
                custom_translation_table=onnx_operators(),
                input_names=[part.input_name],
                output_names=list(part.output_names),
                dynamic_axes=None,
            )
    finally:
        registration.setLevel(level)
    # Of each node it notes the lines of code on this machine.
    for node in exported.model.graph.all_nodes():
        node.metadata_props.clear()
    exported.save(path, external_data=True)


def _convert_to_openvino(path: Path) -> None:
    """Turn an ONNX file into OpenVINO's two files, in full precision."""
    import openvino

    openvino.save_model(openvino.convert_model(path), path.with_suffix(".xml"), compress_to_fp16=False)
    path.unlink()
    path.with_name(f"{path.name}.data").unlink(missing_ok=True)


__all__ = ["FORMATS", "check_format", "export_perception"]
