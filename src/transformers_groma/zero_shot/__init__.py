"""Zero-shot classification of images: weighted views of an image against weighted descriptions of labels (WCA).

Where to look first, from what goes in to what comes out:

- labels and texts: `label_lists`, `label_texts` (by `methods`, from `templates` and `waffle`, read by `input_files`);
  `describing` and `sentences` have a chat model write descriptions
- views: `views` (random squares, a grid), `region_views` and `region_squares` (a Groma's proposals), `view_sources`
- images: `image_arguments` (one, many or a stream of them), `rgb_images`, `image_preparation`
- the encoder: `dual_encoder`, with `encoder_interface` and `encoder_loading`
- features and scores: `text_features`, `view_features`, `scores`, `temperatures`
- results: `classifier` puts all of these together; `classification`, `classification_drawing`, `released_protocol`
"""

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
