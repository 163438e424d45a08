"""The rows of the table: each method with its texts and its views, scored from features that all of them share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...zero_shot.dual_encoder import DualEncoder
from ...zero_shot.label_texts import LabelTexts, texts_of_labels
from ...zero_shot.methods import METHODS, Method
from ...zero_shot.scores import SCORES
from ...zero_shot.text_features import TextFeatures, encode_label_texts
from .image_features import EncodedImages
from .view_plans import ViewPlan, pooled_images

_SCORE_WORDS = {"paper": "the paper's score", "released": "the released score"}
_VIEW_WORDS = {
    "random": "random views",
    "grid": "views of a grid",
    "regions": "views of regions",
    "both": "random views and regions",
}


@dataclass(frozen=True)
class TextFiles:
    """What the texts of classes are made of, as far as it is given.

    Args:
        descriptions (`Mapping[str, Sequence[str]]`, *optional*): sentences by class name, in the format of CuPL.
        phrases (`Mapping[str, Sequence[str]]`, *optional*): phrases by class name, in the format of DCLIP.
        templates (`Sequence[str]`, *optional*): texts with `{}` where the name goes.
    """

    descriptions: Mapping[str, Sequence[str]] | None = None
    phrases: Mapping[str, Sequence[str]] | None = None
    templates: Sequence[str] | None = None

    def lacks(self, method: Method) -> str | None:
        """Why a method cannot run, in words; `None` if it can."""
        if method.name == "dclip" and self.phrases is None:
            return "it needs phrases by class, in the format of DCLIP"
        if method.name == "cupl" and self.descriptions is None:
            return "it needs sentences by class, in the format of CuPL"
        return None

    def of(self, method: Method) -> dict[str, object]:
        """The arguments of `texts_of_labels` for a method."""
        if method.texts == "phrases":
            return {"descriptions": self.phrases}
        if method.texts == "descriptions" and self.descriptions is not None:
            return {"descriptions": self.descriptions}
        return {"templates": self.templates} if method.uses_templates and method.texts != "template" else {}


@dataclass(frozen=True)
class TableRow:
    """A method with its views and its score: a row of the table.

    Args:
        name (`str`): names it in files, such as `"wca-random-paper"`.
        title (`str`): names it for people.
        method (`Method`): what it is.
        texts (`tuple[TextFeatures, ...]`): of the classes; one, or one for each repeat.
        plan ([`ViewPlan`], *optional*): its views; without it the whole image.
        score (`str`): `"paper"` or `"released"`.
    """

    name: str
    title: str
    method: Method
    texts: tuple[TextFeatures, ...]
    plan: ViewPlan | None
    score: str

    @property
    def repeats(self) -> int:
        """How often each image is classified."""
        return max(len(self.texts), 1 if self.plan is None else self.plan.repeats)

    def texts_of(self, repeat: int) -> TextFeatures:
        """The texts of a repeat."""
        return self.texts[repeat if len(self.texts) > 1 else 0]

    def plan_repeat(self, repeat: int) -> int:
        """Which repeat of the views one of the row is."""
        return 0 if self.plan is None or self.plan.repeats == 1 else repeat


class BatchScores:
    """The scores of some images by any row; what rows share is computed once.

    Args:
        images ([`EncodedImages`]): the images.
        temperature (`float`): of the weights of views.
    """

    def __init__(self, images: EncodedImages, temperature: float) -> None:
        self._images, self._temperature = images, temperature
        self._pooled: dict[tuple[int, int], Tensor] = {}

    def __call__(self, row: TableRow, repeat: int = 0) -> Tensor:
        """The score of each image and class.

        Args:
            row ([`TableRow`]): how.
            repeat (`int`): number of the repeat.

        Returns:
            `Tensor` of shape `(B, C)`, float32.
        """
        key = (id(row.plan), row.plan_repeat(repeat))
        if key not in self._pooled:
            self._pooled[key] = pooled_images(self._images, row.plan, key[1], self._temperature)
        return SCORES[row.score](self._pooled[key], row.texts_of(repeat).pooled)


def texts_of_methods(
    names: Sequence[str], methods: Sequence[str], files: TextFiles, seeds: Sequence[int] = (0,)
) -> dict[str, list[LabelTexts]]:
    """The texts of the classes by method; nothing is encoded.

    Args:
        names (`Sequence[str]`): of the classes, no two the same.
        methods (`Sequence[str]`): which methods, in the order of the table.
        files ([`TextFiles`]): what the texts are made of.
        seeds (`Sequence[int]`): of the random texts of `"waffle"`, one a repeat.

    Returns:
        `dict[str, list[LabelTexts]]`: for each method one, or one a seed.

    Raises:
        ValueError: `descriptions` or `phrases` that lack a class, or are damaged.
    """
    texts = {}
    for method in (METHODS[name] for name in methods):
        repeats = seeds if method.texts == "random" else (0,)
        try:
            texts[method.name] = [
                texts_of_labels(names, method=method, seed=seed, **files.of(method)) for seed in repeats
            ]
        except ValueError as error:
            of_phrases = method.texts == "phrases"
            raise ValueError(str(error).replace("`descriptions`", "`phrases`") if of_phrases else error) from error
    return texts


def table_rows(
    encoder: DualEncoder,
    given: Mapping[str, Sequence[LabelTexts]],
    plans: Mapping[str, ViewPlan],
    *,
    scores: Sequence[str] = ("paper",),
    text_temperature: float,
    of_templates: bool = False,
) -> list[TableRow]:
    """Encode the texts of all methods and make the rows of the table.

    Args:
        encoder (`DualEncoder`): keeps the features of texts, so that what methods share is encoded once.
        given (`Mapping[str, Sequence[LabelTexts]]`): of [`texts_of_methods`].
        plans (`Mapping[str, ViewPlan]`): by kind of view; each is a row of `"wca"`.
        scores (`Sequence[str]`): of `"wca"`: `"paper"`, `"released"` or both, which are rows of their own.
        text_temperature (`float`): of the weights of texts.
        of_templates (`bool`): whether `"wca"` has no descriptions, which its rows say.

    Returns:
        `list[TableRow]`
    """
    rows = []
    for name, of_repeats in given.items():
        method = METHODS[name]
        temperature = text_temperature if method.weighs_texts else None
        texts = [encode_label_texts(encoder, one.names, one.anchors, one.texts, temperature) for one in of_repeats]
        if not method.pools_views:
            # The mean of a class's texts and the whole image are compared by their cosine.
            rows.append(TableRow(method.name, method.title, method, tuple(texts), None, "released"))
            continue
        what = ", of templates" if of_templates else ""
        for kind, plan in plans.items():
            for score in scores:
                title = f"WCA, {_VIEW_WORDS[kind]}{what}, {_SCORE_WORDS[score]}"
                rows.append(TableRow(f"wca-{kind}-{score}", title, method, tuple(texts), plan, score))
    return rows


def probabilities_of(encoder: DualEncoder, scores: Tensor) -> Tensor:
    """What the encoder makes of scores `(B, C)`: a softmax by its own logit scale, for SigLIP a sigmoid."""
    with torch.no_grad():
        return encoder.probabilities(scores)


__all__ = ["BatchScores", "TableRow", "TextFiles", "probabilities_of", "table_rows", "texts_of_methods"]
