"""What goes up of a dataset: its Parquet files, and a card from which `datasets.load_dataset` learns the splits."""

import fnmatch
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCard

from .contents import Contents, left_out_of
from .dataset_card import config_metadata, dataset_card
from .dataset_files import read_configs
from .kinds import card_metadata

LICENSE_FILES = ("LICENSE", "LICENSE.md", "LICENSE.txt", "NOTICE")


def dataset_contents(folder: Path, repo_id: str, license: str | None = None) -> Contents:
    """Choose what goes up of a dataset that `groma data`, `groma annotate` or a script of `processing/` has written.

    Reports, notes and previews stay here. A README.md of the folder is kept as it is, with the splits added to its
    metadata if they are missing; without one a card is written.

    Args:
        folder (`Path`): the Parquet files, or folders of them.
        repo_id (`str`): name of the dataset on the Hub, `ORG/NAME`.
        license (`str`, *optional*): identifier of its licence on the Hub.

    Returns:
        `Contents`: of a repository of the type `"dataset"`. Parquet files of an earlier push are replaced.

    Raises:
        ValueError: see `dataset_files.read_configs`; or README.md names another licence.

    Example:
    >>> import tempfile
    >>> from transformers_groma.shapes.rows import shapes_dataset
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = shapes_dataset("rec", 2, seed=0).to_parquet(folder / "train-00000-of-00001.parquet")
    >>> sorted(dataset_contents(folder, "org/shapes").files)
    ['README.md', 'train-00000-of-00001.parquet']
    """
    configs = read_configs(folder)
    files: dict[str, Path | bytes] = {
        path.relative_to(folder).as_posix(): path for config in configs for path in config.files()
    }
    files |= {name: folder / name for name in LICENSE_FILES if (folder / name).is_file()}
    if (folder / "README.md").is_file():
        own = card_metadata(folder)
        if license is not None and own.get("license", license) != license:
            raise ValueError(
                f"{folder / 'README.md'} says `license: {own['license']}`, not {license!r}. Correct one of the two."
            )
        card = DatasetCard((folder / "README.md").read_bytes().decode(), ignore_metadata_errors=False)
        if own.get("configs"):
            _check_own_configs(folder, own["configs"], [name for name in files if name.endswith(".parquet")])
        else:
            card.data["configs"] = [config_metadata(config) for config in configs]
        if license is not None:
            card.data["license"] = license
        files["README.md"] = str(card).encode()
    else:
        files["README.md"] = dataset_card(repo_id, configs, license).encode()
    return Contents("dataset", files, replaces=("*.parquet",), left_out=left_out_of(folder, files))


def _check_own_configs(folder: Path, configs: Any, names: list[str]) -> None:
    """Check that `configs` of a README.md, perhaps of an earlier version, fits the files: no more and no fewer."""
    groups = [config.get("data_files") if isinstance(config, dict) else None for config in configs]
    patterns: list[str] = []
    for group in groups:
        for entry in group if isinstance(group, list) else [group]:
            path = entry.get("path") if isinstance(entry, dict) else entry
            patterns += path if isinstance(path, list) else [path]
    card = folder / "README.md"
    remedy = "Correct it, or remove `configs`: it is then written anew."
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise ValueError(f"`configs` in the metadata of {card} has an entry without a path of files. {remedy}")
        if not fnmatch.filter(names, pattern):
            raise ValueError(f"`configs` in the metadata of {card} names {pattern!r}, and no file fits. {remedy}")
    for name in names:
        if not any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns):
            raise ValueError(f"`configs` in the metadata of {card} leaves out {name}. {remedy}")


__all__ = ["dataset_contents"]
