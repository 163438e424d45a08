"""Looks at images with an exported graph, in onnxruntime or OpenVINO, for the language model of the same model."""

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoConfig, PreTrainedConfig

from ..model_files import read_json
from ..models.glamm.modeling_glamm_outputs import GlammImageFeatures, GroundingView
from ..models.groma.modeling_groma_outputs import GromaImageFeatures
from ..models.modeling_parts import check_pixels
from .graph_notes import check_same_model, read_note
from .perception_parts import GROUNDING_PIXELS, PIXELS, layer_name

# Runs a graph: inputs by name to outputs by name.
Graph = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]


class PerceptionRuntime:
    """The visual part of a model as exported graphs. It needs no weights of the model.

    Args:
        folder (`str` or path): what [`export_perception`] wrote.
        num_threads (`int`, *optional*): threads of the runtime; its own choice by default.

    Attributes:
        config (`PreTrainedConfig`): of the model that the graphs are of.
        note (`dict`): which model that is.

    Raises:
        FileNotFoundError: it is not such a folder.
        ValueError: the package that runs the graphs is missing, or a file of the folder is damaged.

    Example:
    ```python
    runtime = PerceptionRuntime("groma-7b-eyes")
    features = runtime.get_image_features(pixel_values)
    output = model.generate(**inputs, mm_encoder_outputs={"image": features})
    ```
    """

    def __init__(self, folder: str | PathLike[str], num_threads: int | None = None) -> None:
        folder = Path(folder)
        self.note = read_note(folder)
        settings = folder / "config.json"
        if not settings.is_file():
            raise FileNotFoundError(f"{str(folder)!r} has no {settings.name}: export the graph again.")
        read_json(settings, "Export the graph again.")
        self.config: PreTrainedConfig = AutoConfig.from_pretrained(folder)
        names = ("perception",) if self.config.model_type == "groma" else ("perception", "grounding")
        self._graphs = {name: _open_graph(folder, name, num_threads) for name in names}

    def get_image_features(
        self,
        pixel_values: Tensor,
        grounding_pixel_values: Tensor | None = None,
        grounding_sizes: Tensor | None = None,
    ) -> GromaImageFeatures | GlammImageFeatures:
        """What the model's `get_image_features` returns of images, without user boxes.

        Args:
            pixel_values (`Tensor` of shape `(B, 3, image_size, image_size)`): images from the processor.
            grounding_pixel_values (`Tensor` of shape `(B, 3, S, S)`), grounding_sizes (`Tensor` of shape `(B, 2)`),
                *optional*: of a GLaMM, as for the model; masks are decoded from them.

        Returns:
            `GromaImageFeatures` or `GlammImageFeatures`: on the CPU, in float32; for `mm_encoder_outputs={"image": …}`
            or the model's `encode_regions`.

        Raises:
            ValueError: wrong image size, or pixels that are not floats.
        """
        check_pixels(PIXELS, pixel_values, self.config.vision_config.image_size)
        seen = self._run("perception", {PIXELS: pixel_values})
        maps = [seen[layer_name(layer)] for layer in self.config.region_encoder_config.vision_feature_layers]
        if self.config.model_type == "glamm":
            return self._glamm_features(seen, maps, grounding_pixel_values, grounding_sizes)
        decoder = self.config.mask_decoder_config
        of_masks = {}
        if decoder is not None:
            of_masks = {
                "mask_feature_maps": [seen[layer_name(layer)] for layer in decoder.vision_feature_layers],
                "pixel_values": pixel_values,
            }
        names = ("region_boxes", "region_scores", "region_mask", "proposal_boxes", "proposal_scores")
        return GromaImageFeatures(
            pooler_output=list(torch.cat([seen["image_tokens"], seen["region_tokens"]], dim=1)),
            region_feature_maps=maps,
            **{name: seen[name] for name in names},
            **of_masks,
        )

    def _glamm_features(
        self, seen: dict[str, Tensor], maps: list[Tensor], pixels: Tensor | None, sizes: Tensor | None
    ) -> GlammImageFeatures:
        tokens = seen["image_tokens"]
        views = None
        if pixels is not None:
            check_pixels(GROUNDING_PIXELS, pixels, self.config.grounding_image_size)
            # One at a time, as the model does: its memory is large.
            embeddings = [
                self._run("grounding", {GROUNDING_PIXELS: one[None]})["grounding_embedding"] for one in pixels
            ]
            views = [
                GroundingView(one, tuple(size), embedding[0])
                for one, size, embedding in zip(pixels, sizes.tolist(), embeddings, strict=True)
            ]
        return GlammImageFeatures(
            pooler_output=list(tokens),
            region_boxes=torch.zeros(len(tokens), 0, 4),
            region_scores=torch.zeros(len(tokens), 0),
            region_mask=torch.zeros(len(tokens), 0, dtype=torch.bool),
            region_feature_maps=maps,
            grounding=views,
        )

    def _run(self, name: str, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        arrays = {key: pixels.detach().float().cpu().contiguous().numpy() for key, pixels in inputs.items()}
        return {key: torch.from_numpy(value) for key, value in self._graphs[name](arrays).items()}


def perceive_with(model: Any, runtime: PerceptionRuntime) -> None:
    """Let a model look at images with exported graphs from now on. Everything that asks the model then uses them.

    Boxes and clicks of users are still encoded by the model itself, from what the graphs saw.

    Args:
        model (`PreTrainedModel`): the model that the graphs are of, in any dtype or quantization. Changed in place.
        runtime (`PerceptionRuntime`): its graphs.

    Raises:
        ValueError: the graphs are of another model.
    """
    check_same_model(runtime.note, model)
    in_torch = model.get_image_features

    @torch.no_grad()
    def get_image_features(
        pixel_values: Tensor, refer_boxes: Tensor | None = None, *args: Any, return_dict: bool = True, **kwargs: Any
    ) -> Any:
        views = {name: kwargs.get(name) for name in (GROUNDING_PIXELS, "grounding_sizes")}
        points = {name: kwargs.get(name) for name in ("refer_points", "refer_point_labels", "refer_ambiguity")}
        # Graphs hand out no fused maps: where later regions need them, the model makes them again.
        kwargs.pop("keep_fused_maps", None)
        others = {name for name, value in kwargs.items() if value is not None} - {*views, *points}
        if args or others:  # ground-truth boxes, given proposals, hidden states, attentions
            return in_torch(pixel_values, refer_boxes, *args, return_dict=return_dict, **kwargs)
        if model.config.model_type == "groma":
            views = {}
        features = on_device(runtime.get_image_features(pixel_values, **views), model.device)
        if refer_boxes is not None:
            features = model.encode_regions(features, refer_boxes, **points)
        return features if return_dict else features.to_tuple()

    model.get_image_features = get_image_features


def on_device(features: Any, device: torch.device) -> Any:
    """Features with all their tensors on a device; changed in place."""
    for name, value in list(features.items()):
        if isinstance(value, Tensor):
            features[name] = value.to(device)
        elif isinstance(value, list) and all(isinstance(one, Tensor) for one in value):
            features[name] = [one.to(device) for one in value]
    for view in getattr(features, "grounding", None) or ():
        view.pixel_values, view.embedding = view.pixel_values.to(device), view.embedding.to(device)
    return features


def _open_graph(folder: Path, name: str, num_threads: int | None) -> Graph:
    """The graph of a name in a folder, by the file that is there."""
    onnx, openvino = folder / f"{name}.onnx", folder / f"{name}.xml"
    for path, package, opened in ((onnx, "onnxruntime", _onnx_graph), (openvino, "openvino", _openvino_graph)):
        if path.is_file():
            if find_spec(package) is None:
                raise ValueError(
                    f'{str(path)!r} needs the package {package}: pip install "transformers-groma[export]".'
                )
            try:
                return opened(path, num_threads)
            except Exception as error:  # each runtime has errors of its own, without a common class
                weights = onnx.with_suffix(".onnx.data") if path == onnx else openvino.with_suffix(".bin")
                raise ValueError(
                    f"{str(path)!r} or {weights.name} beside it is damaged, incomplete or not for this release of "
                    f"{package}: export the graph again. ({' '.join(str(error).split())})"
                ) from error
    raise FileNotFoundError(f"{str(folder)!r} has neither {onnx.name} nor {openvino.name}: export the graph again.")


def _onnx_graph(path: Path, num_threads: int | None) -> Graph:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # it warns of what it does not compute in advance; errors are raised as well
    if num_threads is not None:
        options.intra_op_num_threads = num_threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(names, dict(inputs)), strict=True))


def _openvino_graph(path: Path, num_threads: int | None) -> Graph:
    import openvino

    # Some CPUs would compute in bfloat16, and regions would be others.
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    if num_threads is not None:
        settings["INFERENCE_NUM_THREADS"] = num_threads
    compiled = openvino.Core().compile_model(path, "CPU", settings)
    outputs = {output.get_any_name(): output for output in compiled.outputs}

    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        found = compiled(dict(inputs))
        # Copies: the runtime reuses its memory in the next call.
        return {name: np.array(found[output]) for name, output in outputs.items()}

    return run


__all__ = ["PerceptionRuntime", "on_device", "perceive_with"]
