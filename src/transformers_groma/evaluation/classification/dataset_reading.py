"""Finds the images and the classes of a dataset: class folders, Parquet files, or a name on the Hub."""

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from datasets import ClassLabel, Dataset, Features, Image, Value, load_dataset

from ..._words import counted
from ...data.mixtures import DatasetSpec, load_rows, parse_dataset_spec
from ...images import IMAGE_SUFFIXES
from .class_names import ClassNames, classes_of, classes_of_texts
from .labelled_images import ColumnFiles, FolderFiles, LabelledImages

DEFAULT_SPLIT = "test"
# Folders named in an error; the rest is counted.
_SHOWN_FOLDERS = 8


def read_labelled_images(
    spec: str | os.PathLike,
    split: str | None = None,
    *,
    label_column: str | None = None,
    image_column: str | None = None,
    label_names: Sequence[str] | None = None,
) -> LabelledImages:
    """Find the images of a dataset and the class of each; images are read later, one at a time.

    Args:
        spec (`str` or `Path`): `PATH[@SPLIT]`: a folder with a folder of images for each class, perhaps in a folder
            for each split; a folder with Parquet files; one Parquet file; or a Hub name.
        split (`str`, *optional*): the split, if the spec names none; "test" without either.
        label_column, image_column (`str`, *optional*): columns of a dataset with several that may be meant.
        label_names (`Sequence[str]`, *optional*): a name for each class, by its index. For labels that are texts: all
            classes there are.

    Returns:
        `LabelledImages`: rows without a label and files that are not images are in `left_out`.

    Raises:
        FileNotFoundError: there is nothing of that name, or no such split.
        ValueError: no images, fewer than two classes, columns that may be meant or are not there, labels without
            names, a label that is not a class, or a number of names that is not that of the classes.

    Example:
    >>> import tempfile
    >>> from PIL import Image as PilImage
    >>> folder = Path(tempfile.mkdtemp())
    >>> for name in ("cat", "red_fox"):
    ...     (folder / name).mkdir()
    ...     PilImage.new("RGB", (8, 8)).save(folder / name / "1.png")
    >>> images = read_labelled_images(folder)
    >>> images.classes.shown, images.image_ids, images.labels
    (('cat', 'red fox'), ['cat/1.png', 'red_fox/1.png'], array([0, 1]))
    """
    named = parse_dataset_spec(str(spec), split or DEFAULT_SPLIT)
    is_named = split is not None or f"@{named.split}" in str(spec)
    if split is not None and named.split != split:
        raise ValueError(f"{str(spec)!r} names the split {named.split!r} and `split` is {split!r}. Name one.")
    if named.ratio != 1:
        raise ValueError(f"{str(spec)!r} has a ratio, which is for training. Name the dataset without it.")
    path = Path(named.path)
    if path.is_dir() and not any(path.glob("*.parquet")):
        root, split_name = _root_of_classes(path, named.split, is_named)
        if root is not None:
            for option, column in (("label_column", label_column), ("image_column", image_column)):
                if column is not None:
                    raise ValueError(
                        f"`{option}` is of datasets with columns, and {root} has a folder for each class."
                    )
            return _of_folders(root, str(path), split_name, label_names)
    dataset = _rows(named)
    if len(dataset) == 0:
        raise ValueError(f"{named.path} has no rows in its split {named.split!r}.")
    return _of_columns(dataset, named, label_column, image_column, label_names)


def _rows(named: DatasetSpec) -> Dataset:
    path = Path(named.path)
    if path.is_dir() and not any(path.glob("*.parquet")):
        # The files of a dataset of the Hub, which says where its splits are.
        if not any(path.rglob("*.parquet")):
            if (path / "dataset_info.json").exists() or (path / "dataset_dict.json").exists():
                raise ValueError(
                    f"{path} was written by `save_to_disk`, which is for one machine and version. Write it with "
                    "`dataset.to_parquet`, one file for each split: test-00000-of-00001.parquet."
                )
            raise ValueError(
                f"{path} has neither folders with images, one for each class, nor Parquet files. Pass such a folder, "
                "a Parquet file or a Hub name."
            )
        return load_dataset(str(path), split=named.split)
    return load_rows(named)


# Class folders


def _root_of_classes(folder: Path, split: str, is_named: bool) -> tuple[Path | None, str]:
    """The folder that holds the class folders, and the name of the split; no folder where there are none."""
    if _has_classes(folder / split) and (is_named or not _has_classes(folder)):
        return folder / split, split
    splits = [entry.name for entry in _folders(folder) if _has_classes(entry)]
    if _has_classes(folder):
        if not is_named:
            return folder, ""
        found = f"its splits are {', '.join(splits)}" if splits else "it has no splits: leave it out"
        raise FileNotFoundError(f"{folder} has no folder {split!r} with a folder for each class; {found}.")
    if splits:
        raise FileNotFoundError(
            f"{folder} has no folder {split!r}; its folders with a folder for each class are {_some(splits)}. Name "
            f"one as {folder}@{splits[0]}."
        )
    return None, ""


def _has_classes(folder: Path) -> bool:
    """Whether a folder of the folder has images."""
    return any(
        entry.suffix.lower() in IMAGE_SUFFIXES and not entry.name.startswith(".")
        for each in _folders(folder)
        for entry in each.iterdir()
    )


def _folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _files(folder: Path) -> list[Path]:
    """All that is in a folder and its folders, links to folders among them, but folders."""
    found: list[Path] = []
    seen: set[str] = set()
    for parent, names, files in os.walk(folder, followlinks=True):
        # A link may lead back to where it is.
        if (real := os.path.realpath(parent)) in seen:
            names.clear()
            continue
        seen.add(real)
        found += [Path(parent, name) for name in files]
    return sorted(found)


def _of_folders(root: Path, name: str, split: str, label_names: Sequence[str] | None) -> LabelledImages:
    folders = _folders(root)
    classes = classes_of([folder.name for folder in folders], label_names, f"class folders in {root}")
    paths: list[Path] = []
    labels: list[int] = []
    left_out: dict[str, list[str]] = {}
    for label, folder in enumerate(folders):
        for path in _files(folder):
            shown = path.relative_to(root)
            if any(part.startswith(".") for part in shown.parts):
                continue  # of the system, such as .DS_Store
            if path.suffix.lower() not in IMAGE_SUFFIXES:
                left_out.setdefault("file that is not an image by its name", []).append(shown.as_posix())
                continue
            if not path.is_file():  # reading a FIFO would wait for its other end
                left_out.setdefault("not a file, or a link to nothing", []).append(shown.as_posix())
                continue
            paths.append(path)
            labels.append(label)
    outside = [entry.name for entry in sorted(root.iterdir()) if entry.suffix.lower() in IMAGE_SUFFIXES]
    if outside:
        left_out["image outside of the class folders"] = outside
    _check_classes(classes, root)
    image_ids = [path.relative_to(root).as_posix() for path in paths]
    rows = np.arange(len(paths))
    return LabelledImages(name, split, classes, image_ids, np.array(labels), rows, FolderFiles(paths), left_out)


# Columns


def _of_columns(
    dataset: Dataset,
    named: DatasetSpec,
    label_column: str | None,
    image_column: str | None,
    label_names: Sequence[str] | None,
) -> LabelledImages:
    features = dataset.features
    image_column = _column(features, image_column, "image_column", _is_image, "images")
    label_column = _label_column(features, label_column)
    feature, values = features[label_column], dataset[label_column]
    labels = np.full(len(dataset), -1)
    has_label = np.array([value is not None and value != -1 and value != "" for value in values])
    known = [value for value, has in zip(values, has_label) if has]
    if not known:
        raise ValueError(f"no row has a label in the column {label_column!r}. Name another one as `label_column`.")
    if isinstance(feature, ClassLabel) and feature.names is not None:
        classes = classes_of(feature.names, label_names, f"classes in the column {label_column!r}")
        labels[has_label] = known
    elif feature.dtype in ("string", "large_string"):
        classes = classes_of_texts(known, label_names)
        number = {name: index for index, name in enumerate(classes.given)}
        labels[has_label] = [number[value] for value in known]
    else:
        if label_names is None:
            raise ValueError(
                f"the column {label_column!r} has numbers without names: pass a file of labels with a name for each, "
                f"from 0 to {max(known)}."
            )
        classes = classes_of([str(index) for index in range(len(label_names))], label_names)
        labels[has_label] = known
    wrong = np.flatnonzero(has_label & ((labels < 0) | (labels >= len(classes))))
    if len(wrong):
        raise ValueError(
            f"row {wrong[0]} has the label {labels[wrong[0]]}, and the {len(classes)} classes are 0 to "
            f"{len(classes) - 1}. Name all classes in the file of labels."
        )
    _check_classes(classes, f"{named.path}, column {label_column!r},")
    rows = np.flatnonzero(has_label)
    left_out = {}
    if not has_label.all():
        left_out["row without a label"] = [f"row {index}" for index in np.flatnonzero(~has_label)]
    files = ColumnFiles(dataset, image_column)
    image_ids = [f"row {index}" for index in rows]
    return LabelledImages(named.path, named.split, classes, image_ids, labels[rows], rows, files, left_out)


def _label_column(features: Features, name: str | None) -> str:
    if name is not None:
        return _column(features, name, "label_column", _is_label, "labels")
    of_classes = [column for column, feature in features.items() if isinstance(feature, ClassLabel)]
    return of_classes[0] if len(of_classes) == 1 else _column(features, name, "label_column", _is_label, "labels")


def _column(features: Features, name: str | None, option: str, fits: Callable[[object], bool], what: str) -> str:
    """The column that is named, or the only one whose type fits."""
    columns = ", ".join(f"{column} ({_type(feature)})" for column, feature in features.items())
    if name is not None:
        if name not in features:
            raise ValueError(f"`{option}` {name!r} is not a column of the dataset, which has {columns}.")
        if not fits(features[name]):
            raise ValueError(f"`{option}` {name!r} is of the type {_type(features[name])}, which holds no {what}.")
        return name
    found = [column for column, feature in features.items() if fits(feature)]
    if len(found) != 1:
        how_many = "none can hold" if not found else f"{' and '.join(found)} can hold"
        raise ValueError(f"the dataset has the columns {columns}: {how_many} {what}. Name one as `{option}`.")
    return found[0]


def _is_image(feature: object) -> bool:
    if isinstance(feature, dict):
        return {"bytes", "path"} <= set(feature)
    return isinstance(feature, Image) or (isinstance(feature, Value) and feature.dtype in ("binary", "large_binary"))


def _is_label(feature: object) -> bool:
    if isinstance(feature, ClassLabel):
        return True
    is_text_or_number = re.fullmatch(r"string|large_string|u?int\d+", getattr(feature, "dtype", "") or "")
    return isinstance(feature, Value) and is_text_or_number is not None


def _type(feature: object) -> str:
    if isinstance(feature, ClassLabel):
        return counted(feature.num_classes or 0, "class", "classes")
    return feature.dtype if isinstance(feature, Value) else type(feature).__name__.lower().replace("dict", "fields")


def _check_classes(classes: ClassNames, what: object) -> None:
    if len(classes) < 2:
        raise ValueError(f"{what} has {counted(len(classes), 'class', 'classes')}: there must be at least two.")


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN_FOLDERS} more" if len(names) > _SHOWN_FOLDERS else ""
    return ", ".join(names[:_SHOWN_FOLDERS]) + more


__all__ = ["DEFAULT_SPLIT", "read_labelled_images"]
