"""Classifies images without training: weighted views of an image against weighted descriptions of labels (WCA)."""

import copy
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..pipeline_samples import is_stream
from .classification import Classification, Explanation, LabelScore
from .dual_encoder import BATCH_SIZE, DualEncoder, batches
from .image_arguments import images_with_boxes, is_one_image
from .label_texts import check_descriptions, texts_of_labels
from .methods import METHODS, Method, method_of
from .region_views import views_of_boxes
from .rgb_images import read_rgb
from .scores import SCORES, check_score, pooled_views, view_weights
from .temperatures import check_temperature, default_temperatures
from .templates import DEFAULT_TEMPLATE, check_templates
from .text_features import TextFeatures, encode_label_texts
from .view_features import ViewFeatures, encode_views
from .view_sources import Proposer, check_view_source, views_of_images
from .views import BOUNDS, Views, check_bounds, check_count

# As in the paper.
VIEW_COUNT = 60
# Images that are read together where each is looked at as a whole; large photos take 40 MB each.
WHOLE_IMAGES = 16
# The template of transformers' own pipeline.
PIPELINE_TEMPLATE = "This is a photo of {}."


class CrossAlignmentClassifier:
    """Says which label fits an image best, by weighted visual-text cross alignment (WCA); nothing is trained.

    Many views of an image are compared with many descriptions of each label. A view counts by how alike it is to the
    whole image, a description by how alike it is to `"a photo of a {label}."`. `docs/zero-shot.md` tells more.

    Args:
        model (`PreTrainedModel`): any dual encoder of transformers, see [`DualEncoder`].
        processor (`ProcessorMixin`): its processor.
        labels (`Sequence[str]`, *optional*): what an image may be, no two of the same name. An underscore is a space
            in texts. By default the keys of `descriptions`. A single label is allowed; unless the encoder is a SigLIP,
            its probability is 1 for every image, as the library's pipeline has it, and only its score says something.
        descriptions (`Mapping[str, Sequence[str]]`, *optional*): texts by label, such as [`read_descriptions`] reads
            from a file of CuPL or DCLIP. Without them templates with the label are compared.
        method (`str` or `Method`): `"wca"`, or a baseline of `methods.METHODS`. The baselines compare the whole image
            alone, whatever `views` says, with the mean of the texts by cosine, whatever `score` says.
        views (`str`, *optional*): `"random"` squares, those of a `"grid"`, the `"regions"` that a `proposer` finds,
            `"both"` random squares and regions, or `None` for the whole image alone.
        view_count (`int`): random squares, or squares of the grid, of an image.
        bounds (`(float, float)`): sides of the squares as fractions of the shorter side of the image.
        seed (`int`): of the random squares, which follow from it and the pixels of an image; and of random texts.
        score (`str`): `"paper"`, the sum of all weighted similarities, as the paper's figure draws it; or
            `"released"`, the cosine of the weighted sums, as the published code computes it. See `scores.py`.
        image_temperature, text_temperature (`float`, *optional*): of the weights of views and descriptions; by default
            those of the encoder's family in `temperatures.py`.
        proposer (`Callable`, *optional*): what finds the regions: a [`RegionViews`], or a function of its kind.
        templates (`Sequence[str]`, *optional*): with `{}` for the label, for methods and labels without descriptions.
        anchor_template (`str`): what descriptions are weighed by, with `{}` for the label.
        view_batch (`int`): views in one call of the encoder; it bounds memory.

    Raises:
        ValueError: an argument out of its range, a model that is not a dual encoder, or labels and descriptions that
            do not fit each other; before anything is encoded.

    Example:
    >>> from transformers_groma.zero_shot import CrossAlignmentClassifier
    >>> case = "tests/fixtures/golden_wca/clip_b2_c4"
    >>> descriptions = {
    ...     "cloud": ["white and soft.", "fluffy edges."],
    ...     "red ball": ["a round red toy.", "it has no corners."],
    ... }
    >>> classifier = CrossAlignmentClassifier.from_pretrained(f"{case}/model", descriptions=descriptions, device="cpu")
    >>> (result,) = classifier.classify([f"{case}/image_0.png"], explain=True)
    >>> result.label
    'cloud'
    >>> result.explanation.strongest(result.label, n=1)[0].description
    'fluffy edges.'
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        labels: Sequence[str] | None = None,
        descriptions: Mapping[str, Sequence[str]] | None = None,
        *,
        view_batch: int = BATCH_SIZE,
        **settings: Any,
    ) -> None:
        check_count(view_batch, "view_batch")
        self._set_up(DualEncoder(model, processor, batch_size=view_batch), labels, descriptions, **settings)

    @classmethod
    def from_encoder(cls, encoder: DualEncoder, *args: Any, **kwargs: Any) -> "CrossAlignmentClassifier":
        """A classifier with an encoder that others use too, so that they share the features of texts.

        Args:
            encoder (`DualEncoder`): its `batch_size` is the `view_batch`.
            *args, **kwargs: those of the constructor that follow `processor`.
        """
        classifier = cls.__new__(cls)
        classifier._set_up(encoder, *args, **kwargs)
        return classifier

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike[str],
        labels: Sequence[str] | None = None,
        descriptions: Mapping[str, Sequence[str]] | None = None,
        *,
        device: str | torch.device | None = None,
        dtype: str = "auto",
        revision: str | None = None,
        view_batch: int = BATCH_SIZE,
        **settings: Any,
    ) -> "CrossAlignmentClassifier":
        """Load an encoder from a folder or the Hub, and make a classifier of it.

        Args:
            name (`str` or path): of the encoder, such as `openai/clip-vit-base-patch32`.
            labels, descriptions, view_batch, **settings: of the constructor.
            device, dtype, revision: of [`DualEncoder.from_pretrained`].
        """
        check_count(view_batch, "view_batch")
        encoder = DualEncoder.from_pretrained(name, device, dtype, revision, batch_size=view_batch)
        return cls.from_encoder(encoder, labels, descriptions, **settings)

    def _set_up(
        self,
        encoder: DualEncoder,
        labels: Sequence[str] | None = None,
        descriptions: Mapping[str, Sequence[str]] | None = None,
        *,
        method: str | Method = "wca",
        views: str | None = "random",
        view_count: int = VIEW_COUNT,
        bounds: tuple[float, float] = BOUNDS,
        seed: int = 0,
        score: str = "paper",
        image_temperature: float | None = None,
        text_temperature: float | None = None,
        proposer: Proposer | None = None,
        templates: Sequence[str] | None = None,
        anchor_template: str = DEFAULT_TEMPLATE,
    ) -> None:
        self.method = method_of(method)
        check_view_source(views, proposer)
        check_count(view_count, "view_count")
        check_bounds(bounds)
        if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
            raise ValueError(f"`seed` must be a non-negative integer, got {seed!r}.")
        check_score(score)
        defaults = default_temperatures(encoder.model.config.model_type)
        self.image_temperature = check_temperature(
            defaults.image if image_temperature is None else image_temperature, "image_temperature"
        )
        self.text_temperature = check_temperature(
            defaults.text if text_temperature is None else text_temperature, "text_temperature"
        )
        self.encoder, self.view_count, self.bounds = encoder, view_count, bounds
        self.seed, self.proposer = seed, proposer
        self.views = views if self.method.pools_views else None
        # What the baselines are by definition: the mean of a label's texts, normalized, against the image.
        self.score = score if self.method.weighs_texts else "released"
        self._descriptions, self._templates, self._anchor_template = descriptions, templates, anchor_template
        self._labels: tuple[str, ...] = ()
        self._encoded: tuple[Any, TextFeatures] | None = None
        if labels is not None or descriptions is not None:
            self._set_labels(list(check_descriptions(descriptions)) if labels is None else labels)

    def _set_labels(self, labels: Sequence[str]) -> None:
        self._label_texts = texts_of_labels(
            labels,
            self._descriptions,
            self.method,
            templates=self._templates,
            anchor_template=self._anchor_template,
            seed=self.seed,
        )
        self._labels, self._encoded = tuple(labels), None

    def with_labels(
        self, labels: Sequence[str], descriptions: Mapping[str, Sequence[str]] | None = None
    ) -> "CrossAlignmentClassifier":
        """The same classifier with other labels. Only texts that are new are encoded.

        Args:
            labels (`Sequence[str]`): the other labels.
            descriptions (`Mapping[str, Sequence[str]]`, *optional*): theirs; by default those of this classifier.

        Returns:
            `CrossAlignmentClassifier`: another one; this one does not change.
        """
        other = copy.copy(self)
        if descriptions is not None:
            other._descriptions = descriptions
        other._set_labels(labels)
        return other

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels, as the caller named them."""
        return self._labels

    @property
    def texts(self) -> TextFeatures:
        """The encoded texts of the labels; encoded when they are first needed, and again after a step of training."""
        if not self._labels:
            raise ValueError("The classifier has no labels: pass `labels` to it, or `candidate_labels` to its call.")
        state = self.encoder.state
        if self._encoded is None or self._encoded[0] != state:
            temperature = self.text_temperature if self.method.weighs_texts else None
            texts = self._label_texts
            encoded = encode_label_texts(self.encoder, self._labels, texts.anchors, texts.texts, temperature)
            self._encoded = state, encoded
        return self._encoded[1]

    def encode(
        self, images: Sequence[Image.Image], first: int = 0, places: Sequence[Views] | None = None
    ) -> ViewFeatures:
        """Choose the views of images and encode them. Scores of several classifiers can follow from the result.

        Args:
            images (`Sequence[PIL.Image.Image]`): upright, of mode RGB; see [`read_rgb`].
            first (`int`): number of the first image, for errors.
            places (`Sequence[Views]`, *optional*): the views of each image; by default those that the classifier
                chooses.

        Returns:
            `ViewFeatures`
        """
        if not images:
            raise ValueError("`images` holds no image: pass at least one.")
        return encode_views(self.encoder, images, self.views_of(images) if places is None else places, first)

    def views_of(self, images: Sequence[Image.Image]) -> list[Views]:
        """The views that the classifier looks at, of each of several upright RGB images."""
        return views_of_images(
            images, self.views, count=self.view_count, seed=self.seed, bounds=self.bounds, proposer=self.proposer
        )

    def weights(self, features: ViewFeatures) -> Tensor:
        """How much each view counts, `(B, V)`."""
        return view_weights(features.similarities, self.image_temperature, features.is_padding)

    def scores(self, features: ViewFeatures) -> Tensor:
        """The scores of images whose views are encoded: `(B, C)`, in the order of the labels."""
        pooled = pooled_views(features.views, features.whole, self.image_temperature, features.is_padding)
        return SCORES[self.score](pooled, self.texts.pooled)

    def classify(self, images: Any, explain: bool = False, boxes: Any = None) -> list[Classification]:
        """Classify images.

        Args:
            images: one image or any number of them: PIL images, arrays, tensors, paths, URLs or base64 texts; also a
                generator or a dataset, which is asked for a few at a time.
            explain (`bool`): keep the views and their features, for `Classification.explanation`.
            boxes (array-like of shape `(n, 4)`, or a list of these or `None`, one for each image, *optional*): places
                to look at, `xyxy` in absolute pixels of the upright image. The squares around them, with some context,
                are the views then, in place of those of `views`; where there are none, the whole image is.

        Returns:
            `list[Classification]`: one for each image, in their order. None depends on the images beside it.

        Raises:
            ValueError: no image, one that cannot be read, no labels, boxes that do not fit their image, or features
                that are not finite.
        """
        results = list(self.classify_each(images, explain, boxes))
        if not results:
            raise ValueError("`images` holds no image: pass at least one.")
        return results

    def classify_each(self, images: Any, explain: bool = False, boxes: Any = None) -> Iterator[Classification]:
        """Classify a stream of images: like [`classify`], but each result comes as soon as it is there.

        Args:
            images, explain, boxes: of [`classify`].

        Yields:
            `Classification`
        """
        texts = self.texts
        if boxes is not None and not self.method.pools_views:
            raise ValueError(
                f"`boxes` are views, and method {self.method.name!r} compares the whole image alone: leave them out, "
                "or pass another method."
            )
        first = 0
        at_once = min(WHOLE_IMAGES, self.encoder.batch_size)
        if self.views is not None:
            at_once = max(1, self.encoder.batch_size // (1 + self.view_count))
        for group in batches(images_with_boxes(images, boxes), at_once):
            read = [read_rgb(image, f"Image {first + index}") for index, (image, _) in enumerate(group)]
            features = self.encode(read, first, self._places(read, [given for _, given in group], first))
            scores = self.scores(features)
            probabilities = self.encoder.probabilities(scores)
            for index in range(len(features)):
                explanation = self._explained(features, index, texts) if explain else None
                yield Classification(_ranked(self._labels, scores[index], probabilities[index]), explanation)
            first += len(group)

    def _places(self, images: Sequence[Image.Image], boxes: Sequence[Any], first: int) -> list[Views]:
        """The views of images: squares around the boxes that are given for an image, else the classifier's own."""
        without = [image for image, given in zip(images, boxes, strict=True) if given is None]
        own = iter(self.views_of(without) if without else ())
        places = []
        for number, (image, given) in enumerate(zip(images, boxes, strict=True), start=first):
            if given is None:
                places.append(next(own))
            else:
                squares = views_of_boxes(given, (image.height, image.width), name=f"boxes of image {number}")
                places.append(Views.of_kind(squares, "region"))
        return places

    def _explained(self, features: ViewFeatures, index: int, texts: TextFeatures) -> Explanation:
        is_view = ~features.is_padding[index]
        place = features.places[index]
        shown = ~place.is_padding
        kinds = tuple(kind for kind, is_shown in zip(place.kinds, shown.tolist(), strict=True) if is_shown)
        return Explanation(
            Views(place.xyxy[shown], kinds),
            self.weights(features)[index, is_view],
            features.views[index, is_view],
            texts,
            self.score,
        )

    def __call__(
        self,
        images: Any,
        candidate_labels: Sequence[str] | str | None = None,
        hypothesis_template: str | None = None,
    ) -> list[dict[str, Any]] | list[list[dict[str, Any]]] | Iterator[list[dict[str, Any]]]:
        """Classify images as transformers' `pipeline("zero-shot-image-classification")` is called, with its results.

        Args:
            images: one image, or several in a list, a generator or a dataset.
            candidate_labels (`Sequence[str]` or `str`, *optional*): labels for this call, in a list or in a text with
                commas between them; by default the classifier's own.
                Where the classifier has descriptions they are looked up there, else each label is compared by the
                template alone, and with `views=None` the results are those of the library's pipeline.
            hypothesis_template (`str`, *optional*): the text of each candidate label, with `{}` for the label; by
                default `"This is a photo of {}."`, as in the library. It is what descriptions are weighed by.

        Returns:
            `list[dict]`: for one image `{"score": probability, "label": label}` for each label, best first; a list of
            such lists for several. For a generator or dataset an iterator, which classifies as it is read.

        Raises:
            ValueError: as [`classify`] and the constructor; and a template without candidate labels.
        """
        classifier = self
        if candidate_labels is not None:
            classifier = copy.copy(self)
            if hypothesis_template is not None:
                check_templates([hypothesis_template], "`hypothesis_template`")
            if self._descriptions is None and self._templates is None and self.method.uses_templates:
                classifier.method = METHODS["wca"] if self.method.pools_views else METHODS["template"]
                classifier._templates = [PIPELINE_TEMPLATE if hypothesis_template is None else hypothesis_template]
                classifier._anchor_template = classifier._templates[0]
                classifier.encoder = self.encoder.as_pipeline()
            elif hypothesis_template is not None:
                classifier._anchor_template = hypothesis_template
            if isinstance(candidate_labels, str):  # as the library's pipeline for texts takes them
                candidate_labels = [label.strip() for label in candidate_labels.split(",") if label.strip()]
            classifier._set_labels(candidate_labels)
        elif hypothesis_template is not None:
            raise ValueError(
                f"`hypothesis_template={hypothesis_template!r}` is for `candidate_labels`: pass these too, or pass "
                "`templates` to the classifier."
            )
        if is_stream(images):
            return map(_as_pipeline, classifier.classify_each(images))
        results = [_as_pipeline(result) for result in classifier.classify(images)]
        return results[0] if is_one_image(images) else results


def _as_pipeline(result: Classification) -> list[dict[str, Any]]:
    return [{"score": score.probability, "label": score.label} for score in result.scores]


def _ranked(labels: Sequence[str], scores: Tensor, probabilities: Tensor) -> tuple[LabelScore, ...]:
    order = scores.sort(descending=True, stable=True).indices.tolist()
    values, chances = scores.tolist(), probabilities.tolist()
    return tuple(LabelScore(labels[index], values[index], chances[index]) for index in order)


__all__ = ["PIPELINE_TEMPLATE", "VIEW_COUNT", "CrossAlignmentClassifier"]
