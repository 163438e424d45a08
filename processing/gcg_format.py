"""Reads GLaMM's grounded conversations (GCG) in all their layouts: captions, phrases, and the masks of each phrase."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from processing.coco_format import CocoImage, coco_file_of, read_json
from processing.ids import id_of, record_fault
from transformers_groma._text import RepeatedKey
from transformers_groma.data.left_out import LeftOut, SkipRecord, reason_of

OTHER_LAYOUT = "caption of another layout"


@dataclass(frozen=True, slots=True)
class GroundedCaption:
    """A caption and what its phrases point at.

    Args:
        image_id (`str`), file_name (`str`): of its image.
        caption (`str`): the text, unchecked.
        phrases (`tuple`): for each its words, its place in the caption (`[start, end]`) if it is known, and its
            segmentations, unchecked.
        in_order (`bool`): whether phrases are in the order of the caption.
        is_tokenized (`bool`): whether the caption has spaces that written text has not, as those of Flickr30k.
        size (`tuple`, *optional*): width and height of the image, if the file says so.
        left_out (`tuple` of `LeftOut`): phrases that cannot be read.
        fault (`LeftOut`, *optional*): why it cannot be used.
    """

    image_id: str
    file_name: Any
    caption: Any = None
    phrases: tuple[tuple[Any, Any, tuple[Any, ...]], ...] = ()
    in_order: bool = False
    is_tokenized: bool = False
    size: tuple[int, int] | None = None
    left_out: tuple[LeftOut, ...] = ()
    fault: LeftOut | None = None

    @property
    def name(self) -> str:
        """The name of the caption in a report."""
        return f"{self.file_name}: {self.caption}"

    def annotated_size(self) -> tuple[int, int] | None:
        """Width and height of the image, as the file or the first of its RLE says."""
        if self.size is not None:
            return self.size
        for _, _, segmentations in self.phrases:
            for rle in segmentations:
                size = rle.get("size") if isinstance(rle, Mapping) else None
                if isinstance(size, list) and len(size) == 2 and all(isinstance(id_of(side), int) for side in size):
                    return id_of(size[1]), id_of(size[0])
        return None


def load_gcg(annotations: Sequence[Path]) -> list[GroundedCaption]:
    """Read the captions of one or more files.

    Args:
        annotations (`Sequence[Path]`): files of captions; or the benchmark's captions, with its masks after it.

    Returns:
        `list[GroundedCaption]`: in the order of the files.

    Raises:
        ValueError: a file of another layout.
    """
    contents = [read_json(path) for path in annotations]
    if _is_of_benchmark(contents[0]):
        if len(contents) != 2 or not isinstance(contents[1], dict):
            raise ValueError(
                f"{annotations[0]} has captions of the benchmark, whose masks are in another file: pass "
                "`--annotations CAPTIONS.json MASKS.json`."
            )
        return _captions_of_benchmark(contents, annotations)
    records = []
    for path, content in zip(annotations, contents, strict=True):
        if isinstance(content, dict):
            records += [_caption_of_flickr(entry) for entry in coco_file_of(content, path).images]
        elif isinstance(content, list):
            records += [_caption(number, entry) for number, entry in enumerate(content)]
        else:
            raise ValueError(f"{path} is not a list of captions.")
    return records


def _is_of_benchmark(content: Any) -> bool:
    """Whether it is a COCO-style file without masks of its own; Flickr30k's annotations say where phrases are."""
    annotations = content.get("annotations") if isinstance(content, dict) else None
    if not isinstance(content, dict) or not isinstance(annotations, list):
        return isinstance(content, dict)
    return not any(isinstance(entry, dict) and "tokens_positive" in entry for entry in annotations)


def _caption(number: int, entry: Any) -> GroundedCaption:
    """A caption of GranD-f or PSG, or of RefCOCOg, whose entries are under their number."""
    if isinstance(entry, Mapping) and len(entry) == 1 and isinstance(next(iter(entry.values())), Mapping):
        (entry,) = entry.values()
    fault = record_fault(entry, "caption")
    if fault is not None:
        return GroundedCaption("", f"caption {number}", fault=fault)
    groundings, refs = entry.get("groundings"), entry.get("refs")
    left_out: list[LeftOut] = []
    if isinstance(groundings, RepeatedKey):
        # Which masks the first of them had is lost.
        left_out.append(LeftOut("a caption has a phrase twice, so its masks are ambiguous", repr(groundings.key)))
        groundings = {phrase: value for phrase, value in groundings.items() if phrase != groundings.key}
    if isinstance(groundings, Mapping) and all(isinstance(value, Mapping) for value in groundings.values()):
        name = entry.get("file_name")
        phrases = [
            (phrase, value.get("token_positives"), _as_tuple(value.get("rle_masks")))
            for phrase, value in groundings.items()
        ]
    elif isinstance(refs, list) and all(isinstance(ref, Mapping) for ref in refs):
        name = entry.get("img_file_name")
        phrases = [(ref.get("sentence"), None, (ref.get("segmentation"),)) for ref in refs]
    else:
        return GroundedCaption("", f"caption {number}", fault=LeftOut(OTHER_LAYOUT, repr(entry)[:100]))
    return GroundedCaption(Path(str(name)).stem, name, entry.get("caption"), tuple(phrases), left_out=tuple(left_out))


def _as_tuple(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, list) else (value,)


def _caption_of_flickr(entry: CocoImage) -> GroundedCaption:
    """A caption of Flickr30k: annotations name its phrases by `tokens_positive`, and have a `sam_mask`."""
    image = entry.image
    name = image.get("file_name")
    image_id = str(id_of(image.get("original_img_id", image.get("id"))))
    try:
        size = entry.check()
    except SkipRecord as error:
        return GroundedCaption(image_id, name, image.get("caption"), fault=reason_of(error))
    caption, left_out, phrases = image.get("caption"), list(entry.left_out), []
    for annotation in entry.annotations:
        detail = f"annotation {annotation.get('id')!r}"
        if annotation.get("ignore"):
            left_out.append(LeftOut("annotation is marked as to be ignored", detail))
            continue
        spans = annotation.get("tokens_positive")
        if not isinstance(caption, str) or not isinstance(spans, list) or not all(map(_is_span, spans)) or not spans:
            left_out.append(LeftOut("`tokens_positive` of an annotation are not [start, end]", f"{detail}: {spans!r}"))
            continue
        mask = annotation.get("sam_mask")
        if mask is None:
            left_out.append(LeftOut("annotation without a `sam_mask`", detail))
            continue
        phrases += [(caption[start:end], [start, end], (mask,)) for start, end in spans]
    return GroundedCaption(
        image_id, name, caption, tuple(phrases), is_tokenized=True, size=size, left_out=tuple(left_out)
    )


def _is_span(span: Any) -> bool:
    """Whether a value is `[start, end]`, offsets in characters."""
    is_pair = isinstance(span, list) and len(span) == 2 and all(type(offset) is int for offset in span)
    return is_pair and 0 <= span[0] < span[1]


def _captions_of_benchmark(contents: Sequence[Any], paths: Sequence[Path]) -> list[GroundedCaption]:
    """The benchmark's captions: the k-th of an image's labels has the k-th of its masks."""
    captions, masks = (coco_file_of(content, path) for content, path in zip(contents, paths, strict=True))
    of_image = {
        entry.image_id: [annotation.get("segmentation") for annotation in entry.annotations] for entry in masks.images
    }
    records = []
    for entry in captions.images:
        image_id = entry.image_id
        # Images are named by their id.
        name = entry.image.get("file_name") or f"{image_id}.jpg"
        found = of_image.get(image_id, [])
        labels = [_as_tuple(annotation.get("labels")) for annotation in entry.annotations]
        fault = entry.fault
        if fault is None and len(labels) != 1:
            fault = LeftOut("image has no caption or several, so its masks have no owner", f"{len(labels)} captions")
        elif fault is None and len(labels[0]) != len(found):
            fault = LeftOut(
                "caption does not have one mask for each label", f"{len(labels[0])} labels, {len(found)} masks"
            )
        if fault is not None:
            records.append(GroundedCaption(image_id, name, fault=fault))
            continue
        phrases = [(label, None, (mask,)) for label, mask in zip(labels[0], found, strict=True)]
        records.append(
            GroundedCaption(image_id, name, entry.annotations[0].get("caption"), tuple(phrases), in_order=True)
        )
    return records
