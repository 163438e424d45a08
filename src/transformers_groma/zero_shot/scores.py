"""Weights and scores of weighted visual-text cross alignment (WCA), as pure functions of features, in float32.

Shapes: B images, V views an image, C labels, M descriptions a label, D numbers a feature. Features have length 1.

The score of an image and a label compares every view with every description, and weighs both: with `w` the weights of
the views and `v` those of the descriptions it is `Σ_i Σ_j w_i v_j <view_i, description_j>`. That is the product of the
two weighted sums, so that no matrix of similarities is needed but to explain a score.
"""

import torch
from torch import Tensor
from torch.nn.functional import normalize


def view_weights(similarities: Tensor, temperature: float, is_padding: Tensor | None = None) -> Tensor:
    """How much each view counts: a softmax over the views of an image of how alike they are to the whole image.

    Args:
        similarities (`Tensor` of shape `(…, V)`): cosine of each view and the whole image.
        temperature (`float`): multiplies the similarities; the paper has e⁴ for CLIP.
        is_padding (`Tensor` of shape `(…, V)`, bool, *optional*): views that show nothing.

    Returns:
        `Tensor` of shape `(…, V)`, float32: sums to 1 over an image; exactly 0 for padding. All 0 where all views are
        padding.

    Example:
    >>> view_weights(torch.tensor([0.5, 0.5, 0.9]), 1.0, torch.tensor([False, False, True])).tolist()
    [0.5, 0.5, 0.0]
    """
    return _masked_softmax(similarities, temperature, is_padding)


def description_weights(similarities: Tensor, temperature: float, is_padding: Tensor | None = None) -> Tensor:
    """How much each description counts: a softmax over those of one label of how alike they are to the label's name.

    Args:
        similarities (`Tensor` of shape `(…, M)`): cosine of each description and the label's anchor, which is
            `"a photo of a {label}."`.
        temperature (`float`): multiplies the similarities; the paper has e² for CLIP.
        is_padding (`Tensor` of shape `(…, M)`, bool, *optional*): where a label has fewer descriptions than others.

    Returns:
        `Tensor` of shape `(…, M)`, float32: sums to 1 over a label; exactly 0 for padding.
    """
    return _masked_softmax(similarities, temperature, is_padding)


def _masked_softmax(similarities: Tensor, temperature: float, is_padding: Tensor | None) -> Tensor:
    logits = similarities.float() * temperature
    if is_padding is None:
        return logits.softmax(dim=-1)
    # A row of padding alone has no softmax (it would be NaN): its weights are 0.
    weights = logits.masked_fill(is_padding, -torch.inf).softmax(dim=-1)
    return weights.masked_fill(is_padding, 0.0)


def weighted_sum(features: Tensor, weights: Tensor) -> Tensor:
    """The sum of features, each times its weight: an image in one vector, or a label.

    Args:
        features (`Tensor` of shape `(…, N, D)`): of the views of an image, or the descriptions of a label.
        weights (`Tensor` of shape `(…, N)`): of each.

    Returns:
        `Tensor` of shape `(…, D)`, float32; not longer than 1.
    """
    return torch.einsum("...nd,...n->...d", features.float(), weights.float())


def view_similarities(views: Tensor, whole: Tensor) -> Tensor:
    """How alike each view is to its whole image.

    Args:
        views (`Tensor` of shape `(B, V, D)`): features of views; 0 for padding.
        whole (`Tensor` of shape `(B, D)`): features of the whole images.

    Returns:
        `Tensor` of shape `(B, V)`: cosines; 0 for padding.
    """
    return torch.einsum("bvd,bd->bv", views, whole)


def pooled_views(views: Tensor, whole: Tensor, temperature: float, is_padding: Tensor) -> Tensor:
    """Each image as one vector: the weighted sum of its views. An image without any view counts as a whole.

    Args:
        views (`Tensor` of shape `(B, V, D)`): features of views; V may be 0.
        whole (`Tensor` of shape `(B, D)`): features of the whole images, by which views are weighed.
        temperature (`float`): see [`view_weights`].
        is_padding (`Tensor` of shape `(B, V)`, bool): where an image has fewer views.

    Returns:
        `Tensor` of shape `(B, D)`, float32.

    Example:
    >>> whole, views = torch.tensor([[1.0, 0.0]]), torch.tensor([[[0.8, 0.6], [0.8, -0.6]]])
    >>> pooled_views(views, whole, 1.0, torch.tensor([[False, False]]))
    tensor([[0.8000, 0.0000]])
    >>> pooled_views(views, whole, 1.0, torch.tensor([[True, True]]))
    tensor([[1., 0.]])
    """
    if views.shape[1] == 0:
        return whole.float()
    weights = view_weights(view_similarities(views, whole), temperature, is_padding)
    return torch.where(is_padding.all(dim=1, keepdim=True), whole.float(), weighted_sum(views, weights))


def paper_scores(images: Tensor, labels: Tensor) -> Tensor:
    """The score as the paper draws it: the weighted sum of the similarities of all views and descriptions.

    Args:
        images (`Tensor` of shape `(B, D)`): [`weighted_sum`] of the views of each image.
        labels (`Tensor` of shape `(C, D)`): [`weighted_sum`] of the descriptions of each label.

    Returns:
        `Tensor` of shape `(B, C)`: from -1 to 1. A label whose descriptions differ much from each other has a short
        sum, which makes its scores small; [`released_scores`] leaves that out.

    Example:
    >>> paper_scores(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.5, 0.0], [0.6, 0.8]]))
    tensor([[0.5000, 0.6000]])
    """
    return images.float() @ labels.float().T


def released_scores(images: Tensor, labels: Tensor) -> Tensor:
    """The score as the released code computes it: the cosine of the two weighted sums.

    It is [`paper_scores`] divided by the lengths of the two sums. The length of an image's sum is the same for all
    labels, but each label has a length of its own, so that the two scores can prefer different labels.

    Args:
        images (`Tensor` of shape `(B, D)`): [`weighted_sum`] of the views of each image.
        labels (`Tensor` of shape `(C, D)`): [`weighted_sum`] of the descriptions of each label.

    Returns:
        `Tensor` of shape `(B, C)`: from -1 to 1.

    Example:
        The descriptions of the first label differ, and their sum points at the image; those of the second agree.

    >>> labels = torch.tensor([[0.5, 0.0], [0.6, 0.8]])
    >>> released_scores(torch.tensor([[1.0, 0.0]]), labels)  # the first label is the best
    tensor([[1.0000, 0.6000]])
    >>> paper_scores(torch.tensor([[1.0, 0.0]]), labels)  # the second one is
    tensor([[0.5000, 0.6000]])
    """
    return paper_scores(normalize(images.float(), dim=-1), normalize(labels.float(), dim=-1))


def similarity_matrix(views: Tensor, descriptions: Tensor) -> Tensor:
    """The cosine of each view and each description: what a score is made of.

    Args:
        views (`Tensor` of shape `(…, V, D)`): features of views.
        descriptions (`Tensor` of shape `(C, M, D)`, or `(M, D)` for one label): features of descriptions.

    Returns:
        `Tensor` of shape `(…, V, C, M)`, or `(…, V, M)`, float32.
    """
    return torch.tensordot(views.float(), descriptions.float(), dims=([-1], [-1]))


SCORES = {"paper": paper_scores, "released": released_scores}


def check_score(score: str) -> None:
    """Refuse a score that is not one of `SCORES`."""
    if not isinstance(score, str) or score not in SCORES:
        raise ValueError(f"`score` must be one of {', '.join(map(repr, SCORES))}, got {score!r}.")


__all__ = [
    "SCORES",
    "check_score",
    "description_weights",
    "paper_scores",
    "pooled_views",
    "released_scores",
    "similarity_matrix",
    "view_similarities",
    "view_weights",
    "weighted_sum",
]
