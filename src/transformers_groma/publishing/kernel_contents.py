"""What goes up of a kernel: its builds, its benchmarks and its card, where `kernels.get_kernel` looks for them."""

import ast
import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..model_cards import fill_card
from .contents import Contents, left_out_of

SOURCE_URL = "https://github.com/transformers-groma/transformers-groma/tree/main/kernels"
# What `kernels/build_local.py` writes into its builds.
_LOCAL_MARK = "Written by build_local.py"


def kernel_contents(folder: Path, repo_id: str, local_builds: bool = False) -> Contents:
    """Choose what goes up of a kernel: each of its builds, its benchmarks, its licence, and its card filled in.

    Args:
        folder (`Path`): folder with a `build.toml`, a `CARD.md` and builds in `build/`, as in `kernels/`.
        repo_id (`str`): name of the kernel on the Hub, `ORG/NAME`.
        local_builds (`bool`): let builds of `kernels/build_local.py` go up. They need a C library as new as that of
            the machine that built them, so they are only for machines like it.

    Returns:
        `Contents`: of a repository of the type `"kernel"`; `kernels` looks for version 1 in the branch `v1`. Builds of
            the same variants are replaced, others stay.

    Raises:
        ValueError: no builds, builds of another name or version, builds of this machine, or a `build.toml` or
            `CARD.md` that cannot be read.
    """
    general = _general(folder)
    name, version = general["name"], general["version"]
    variants = sorted(path.parent for path in folder.glob("build/*/metadata.json"))
    if not variants:
        raise ValueError(
            f"{folder} has no builds (build/VARIANT/metadata.json). Make them with kernel-builder, or for machines "
            f"like this one with `python kernels/build_local.py {folder}`."
        )
    for variant in variants:
        _check_build(variant, name, version, local_builds)
    files: dict[str, Path | bytes] = {
        path.relative_to(folder).as_posix(): path for variant in variants for path in _build_files(variant)
    }
    benchmarks = sorted(folder.glob("benchmarks/*.py"))
    files |= {path.relative_to(folder).as_posix(): path for path in benchmarks}
    if (folder / "LICENSE").is_file():
        files["LICENSE"] = folder / "LICENSE"
    package = folder / "torch-ext" / name.replace("-", "_")
    files["README.md"] = fill_card(
        folder / "CARD.md",
        repo_id=repo_id,
        version=version,
        # The Hub writes licences in lower case.
        license=str(general.get("license", "")).lower(),
        functions=[one for one in _public_names(package / "__init__.py") if one != "layers"],
        layers=_public_names(package / "layers.py"),
        has_benchmark=bool(benchmarks),
        upstream=None,
        source=f"{SOURCE_URL}/{name}",
    ).encode()
    return Contents(
        "kernel",
        files,
        replaces=tuple(f"build/{variant.name}/*" for variant in variants),
        branch=f"v{version}",
        left_out=left_out_of(folder, files),
    )


def _general(folder: Path) -> dict[str, Any]:
    """The section `general` of a kernel's build.toml."""
    path = folder / "build.toml"
    try:
        general = tomllib.loads(path.read_text(encoding="utf-8"))["general"]
        return {**general, "name": str(general["name"]), "version": int(general["version"])}
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} cannot be read, or has no `name` and `version` in `[general]` ({error}).") from error


def _check_build(variant: Path, name: str, version: int, local_builds: bool) -> None:
    try:
        metadata = json.loads((variant / "metadata.json").read_bytes())
        built = (metadata["name"], metadata["version"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{variant / 'metadata.json'} is not that of a build ({error}). Build it again.") from error
    if built != (name, version):
        raise ValueError(
            f"{variant} is a build of {built[0]} version {built[1]}, not of {name} version {version}. Build it again."
        )
    ops = variant / "_ops.py"
    if not local_builds and ops.is_file() and _LOCAL_MARK in ops.read_text(encoding="utf-8"):
        raise ValueError(
            f"{variant} was built by kernels/build_local.py and needs a C library as new as this machine's. Publish "
            "what kernel-builder makes, or pass `--local-builds` where all machines are like this one."
        )


def _build_files(variant: Path) -> Iterator[Path]:
    for path in sorted(variant.rglob("*")):
        parts = path.relative_to(variant).parts
        if path.is_file() and "__pycache__" not in parts and not any(part.startswith(".") for part in parts):
            yield path


def _public_names(path: Path) -> list[str]:
    """The names in `__all__` of a module, without importing it."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["__all__"]:
            return list(ast.literal_eval(node.value))
    raise ValueError(f"{path} has no `__all__`: a kernel says in it which names it has.")


__all__ = ["kernel_contents"]
