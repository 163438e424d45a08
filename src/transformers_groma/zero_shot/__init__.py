"""Zero-shot classification of images: views of an image, weighed, against descriptions of labels, weighed (WCA)."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .classifier import CrossAlignmentClassifier

__all__ = ["CrossAlignmentClassifier"]


def __getattr__(name: str) -> Any:
    # Commands read lists of labels from this room, and start without torch.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .classifier import CrossAlignmentClassifier

    return CrossAlignmentClassifier
