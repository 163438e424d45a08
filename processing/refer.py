"""Reads datasets in the layout of `refer` (RefCOCO, gRefCOCO): refs with expressions, and a file of their boxes."""

import pickle
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from processing.coco_format import CocoImage, image_name, load_coco_json, read_json
from processing.ids import Id, id_of
from processing.regions import CROWD, Region
from transformers_groma._text import read_text
from transformers_groma.data.left_out import LeftOut

PICKLES = (".p", ".pkl", ".pickle")
# What gRefCOCO has in place of an annotation where an expression refers to nothing.
NO_TARGET = -1


@dataclass(frozen=True, slots=True)
class Expression:
    """An expression and what it refers to.

    Args:
        image (`dict`): entry of the image: `file_name`, `width`, `height` and an id.
        text (`str`): the expression, unchecked.
        annotations (`tuple` of `dict`): what it refers to, as in the file: `bbox` is `xywh` in pixels, `segmentation`
            polygons or RLE, unchecked. None for an expression that refers to nothing.
        fault (`LeftOut`, *optional*): why it cannot be used.
    """

    image: dict[str, Any]
    text: Any
    annotations: tuple[dict[str, Any], ...] = ()
    fault: LeftOut | None = None

    @property
    def name(self) -> str:
        """The name of the expression in a report."""
        return f"{image_name(self.image)}: {self.text}"


class _PlainUnpickler(pickle.Unpickler):
    """Reads lists, dicts, strings and numbers; a pickle that wants more could run any code."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"the file wants to load {module}.{name}; files of `refer` hold plain data only")


def load_pickle(file: BinaryIO) -> Any:
    """Read a pickle of plain data, written by Python 2 or 3.

    Args:
        file (binary file): the pickle.

    Returns:
        Its content.

    Raises:
        pickle.UnpicklingError: broken, or not plain data.
    """
    return _PlainUnpickler(file, encoding="latin1").load()


def is_refer(paths: Sequence[Path]) -> bool:
    """Whether files are refs and their boxes, of which the first is a pickle or a JSON list.

    Args:
        paths (`Sequence[Path]`): annotation files.

    Returns:
        `bool`

    Raises:
        ValueError: refs without the one file of their boxes after them.
    """
    pickles = [path for path in paths if path.suffix in PICKLES]
    # A list of refs, which are objects; of any other list the reader of COCO-style files says what is wrong.
    is_list = not pickles and re.match(r"\s*\[\s*\{", read_text(paths[0])) is not None
    if (pickles and pickles != [paths[0]]) or ((pickles or is_list) and len(paths) != 2):
        kind, name = ("list", "REFS.json") if is_list else ("pickle", "REFS.p")
        raise ValueError(
            f"A {kind} of refs needs the file of its boxes after it, `--annotations {name} instances.json`; got "
            f"{' '.join(map(str, paths))}."
        )
    return bool(pickles) or is_list


def load_expressions(refs: Path, instances: Path, split: str) -> list[Expression]:
    """Read the expressions of a `refer` dataset.

    Args:
        refs (`Path`): the refs: a pickle, or the JSON of gRefCOCO, whose refs name several annotations or none.
        instances (`Path`): the COCO-style file of their boxes and masks.
        split (`str`): which refs: `"train"`, `"val"`, `"testA"`, `"testB"` or `"test"`.

    Returns:
        `list[Expression]`: in the order of the refs. One of a ref that names no image and annotations that belong
            together has a fault.

    Raises:
        ValueError: not a file of refs, or none of that split.
    """
    content = _read_refs(refs)
    splits = [ref.get("split") if isinstance(ref, dict) else None for ref in content]
    known = sorted({name for name in splits if isinstance(name, str)})
    if split not in known:
        raise ValueError(f"{refs} has no refs of the split {split!r}. Pass `--split` as one of {', '.join(known)}.")
    images, annotations = _read_instances(instances)
    expressions: list[Expression] = []
    for number, (ref, of_split) in enumerate(zip(content, splits, strict=True)):
        if not isinstance(of_split, str):
            expressions.append(Expression({"id": None}, None, fault=LeftOut("ref without a split", f"ref {number}")))
        elif of_split == split:
            expressions += _expressions_of_ref(ref, images, annotations)
    return expressions


def load_refer(refs: Path, instances: Path, split: str) -> list[Region]:
    """Read the regions of a `refer` dataset, one for each expression, which refers to one box.

    Args:
        refs, instances, split: as for `load_expressions`.

    Returns:
        `list[Region]`: in the order of the refs. An expression about several boxes, a crowd or none has a fault.

    Raises:
        ValueError: not a file of refs, or none of that split.
    """
    regions = []
    for expression in load_expressions(refs, instances, split):
        fault, found = expression.fault, expression.annotations
        if fault is None and len(found) != 1:
            fault = LeftOut("an expression refers to several boxes or to none", repr(expression.text)[:100])
        elif fault is None and found[0].get("crowd"):
            fault = CROWD
        bbox, mask = (found[0].get("bbox"), found[0].get("segmentation")) if fault is None else (None, None)
        expressions = () if expression.text is None and fault is not None else (expression.text,)
        regions.append(Region(expression.image, bbox, expressions, fault, mask))
    return regions


def _read_refs(path: Path) -> list[Any]:
    """The refs of a pickle or a JSON file."""
    if path.suffix not in PICKLES:
        content = read_json(path)
        if not isinstance(content, list):
            raise ValueError(f"{path} is not a list of refs.")
        return content
    try:
        with path.open("rb") as file:
            content = load_pickle(file)
        if not isinstance(content, (list, tuple)):
            raise TypeError(f"it holds a {type(content).__name__}, not a list")
    except (pickle.UnpicklingError, EOFError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} is not a pickle of refs ({type(error).__name__}: {error}).") from error
    return list(content)


@dataclass(frozen=True, slots=True)
class _Annotation:
    """What refs may name, and its image."""

    entry: CocoImage
    content: dict[str, Any]


def _read_instances(path: Path) -> tuple[dict[Id | None, CocoImage], dict[Id | None, list[_Annotation]]]:
    """Images and annotations by their id; those of crowds are marked by `crowd`."""
    entries = load_coco_json(path, masks=True).images
    # A faulty entry is known by its id only where no other one is right.
    images = {id_of(entry.image.get("id")): entry for entry in entries if entry.fault is not None}
    images |= {id_of(entry.image.get("id")): entry for entry in entries if entry.fault is None}
    annotations: dict[Id | None, list[_Annotation]] = {}
    for entry in entries:
        for is_crowd, listed in ((False, entry.annotations), (True, entry.crowds)):
            for content in listed:
                kept = {name: content.get(name) for name in ("id", "bbox", "segmentation")}
                found = _Annotation(entry, {**kept, "crowd": is_crowd})
                annotations.setdefault(id_of(content.get("id")), []).append(found)
    return images, annotations


def _expressions_of_ref(
    ref: Mapping[str, Any],
    images: Mapping[Id | None, CocoImage],
    annotations: Mapping[Id | None, Sequence[_Annotation]],
) -> Iterator[Expression]:
    """An expression for each sentence of a ref, which must name one image and annotations that belong to it."""
    detail = f"ref {ref.get('ref_id')!r}: image_id {ref.get('image_id')!r}, ann_id {ref.get('ann_id')!r}"
    image_id = id_of(ref.get("image_id"))
    # The file name of a ref has the number of its annotation in it; that of the image is in the other file.
    entry = images.get(image_id)
    named = ref.get("ann_id")
    named = named if isinstance(named, list) else [named]
    fault = None
    found: list[dict[str, Any]] = []
    if image_id is None or entry is None:
        fault = LeftOut("the image of a ref is not in the file of boxes", detail)
    elif entry.fault is not None:
        fault = entry.fault
    elif NO_TARGET in named and len(named) > 1:
        fault = LeftOut("a ref names annotations and says that there are none", detail)
    elif named != [NO_TARGET]:
        fault, found = _named_annotations(named, entry, annotations, detail)
    image = {"id": ref.get("image_id")} if entry is None else entry.image
    sentences = ref.get("sentences")
    if not isinstance(sentences, (list, tuple)) or not sentences:
        yield Expression(image, None, fault=fault or LeftOut("ref without sentences", detail))
        return
    for sentence in sentences:
        text = sentence.get("sent") if isinstance(sentence, dict) else None
        yield Expression(image, text, tuple(found), fault)


def _named_annotations(
    named: Sequence[Any], entry: CocoImage, annotations: Mapping[Id | None, Sequence[_Annotation]], detail: str
) -> tuple[LeftOut | None, list[dict[str, Any]]]:
    """The annotations that a ref names, or why they cannot be used."""
    found = []
    for identity in named or [None]:
        candidates = annotations.get(id_of(identity), ()) if id_of(identity) is not None else ()
        if not candidates:
            return LeftOut("the annotation of a ref is not in the file of boxes", detail), []
        if len(candidates) > 1:
            return LeftOut("several annotations share the id that a ref names", detail), []
        if candidates[0].entry is not entry:
            return LeftOut("the annotation of a ref belongs to another image than the ref", detail), []
        found.append(candidates[0].content)
    return None, found
