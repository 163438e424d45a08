"""Operators of the visual part that torch's exporter does not know, as standard operators of ONNX."""

from collections.abc import Callable
from typing import Any

import torch

from ..boxes import nms_mask

# The version of the operators of ONNX: GridSample is in it, and OpenVINO reads it.
OPSET = 20
_FLOAT, _BOOL = 1, 9


def onnx_operators() -> dict[Any, Callable]:
    """What `torch.onnx.export` takes as `custom_translation_table`.

    Returns:
        `dict`: translations by operator of torch.
    """
    from onnxscript import opset20 as op

    def non_maximum_suppression(boxes, valid, protected, iou_threshold: float):
        """Boxes `(B, N, 4)` come best first, so their ranks are the scores. None is protected: there are no user boxes
        in the graph."""
        shape = op.Shape(valid)
        count = op.Gather(shape, op.Constant(value_ints=[1]))
        ranks = op.Range(op.Squeeze(count), op.Constant(value_int=0), op.Constant(value_int=-1))
        scores = op.Mul(op.Cast(valid, to=_FLOAT), op.Cast(ranks, to=_FLOAT))
        chosen = op.NonMaxSuppression(
            boxes,
            op.Unsqueeze(scores, op.Constant(value_ints=[1])),
            count,
            op.Constant(value_floats=[iou_threshold]),
            op.Constant(value_floats=[0.5]),  # what is not valid has the score 0
        )
        places = op.Gather(chosen, op.Constant(value_ints=[0, 2]), axis=1)  # image and box, without the class
        ones = op.Expand(
            op.Constant(value_floats=[1.0]), op.Shape(op.Gather(places, op.Constant(value_int=0), axis=1))
        )
        kept = op.ScatterND(op.Expand(op.Constant(value_floats=[0.0]), shape), places, ones)
        return op.Cast(kept, to=_BOOL)

    def stable_sort(self, stable: bool = False, dim: int = -1, descending: bool = False):
        """TopK of everything: of equal values the first comes first."""
        count = op.Gather(op.Shape(self), op.Constant(value_ints=[dim]))
        return op.TopK(self, count, axis=dim, largest=int(descending), sorted=1)

    return {nms_operator(): non_maximum_suppression, torch.ops.aten.sort.stable: stable_sort}


def nms_operator() -> Any:
    """The operator of torch that [`nms_mask`] calls; its name is that of the module it is in."""
    space = "".join(letter if letter.isalnum() and letter.isascii() else "_" for letter in nms_mask.__module__)
    return getattr(torch.ops, space).nms_mask.default


__all__ = ["OPSET", "nms_operator", "onnx_operators"]
