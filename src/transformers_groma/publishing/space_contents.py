"""What goes up of a Space: an app of your own, or this package's app for a model on the Hub."""

from pathlib import Path

from huggingface_hub import RepoCard

from .. import __version__
from ..markdown import python_string
from .contents import Contents, left_out_of
from .kinds import card_metadata, metadata_of

# What programs leave in a folder.
CACHES = ("__pycache__", "node_modules", "venv")
COMPILED = (".pyc", ".pyo")
SDKS = ("gradio", "static", "docker", "streamlit")
# The line of our app that names its model.
_MODEL_LINE = 'MODEL = ""'
_PACKAGE_LINE = "transformers-groma[app]"


def space_contents(folder: Path) -> Contents:
    """Choose what goes up of a Space of your own: all of its files but hidden ones and caches.

    Args:
        folder (`Path`): `app.py`, a `README.md` whose metadata has `sdk`, and whatever they need.

    Returns:
        `Contents`: of a repository of the type `"space"`.

    Raises:
        ValueError: no metadata of a Space, or a link that leads out of the folder.

    Example:
    >>> sorted(space_contents(Path("hub_configs/space")).files)
    ['README.md', 'app.py', 'requirements.txt']
    """
    if "sdk" not in card_metadata(folder):
        raise ValueError(
            f"{folder / 'README.md'} has no metadata of a Space. Begin it with `---`, `title: …`, `sdk: gradio`, "
            "`app_file: app.py`, `---`."
        )
    files: dict[str, Path | bytes] = {}
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        is_cache = any(part.startswith(".") or part in CACHES for part in parts) or path.suffix in COMPILED
        if is_cache or not path.is_file():
            continue
        if not path.resolve().is_relative_to(folder.resolve()):
            raise ValueError(f"{path} is a link that leads out of {folder}. Put the file itself there, or remove it.")
        files[path.relative_to(folder).as_posix()] = path
    return Contents("space", files, left_out=left_out_of(folder, files))


def app_space_contents(template: Path, model: str) -> Contents:
    """Make a Space that shows this package's app for a model.

    Args:
        template (`Path`): the files of our Space, `hub_configs/space` of a checkout.
        model (`str`): name of the model on the Hub. A variable `GROMA_MODEL` of the Space takes precedence.

    Returns:
        `Contents`: of a repository of the type `"space"`; it installs this version of the package.

    Example:
    >>> contents = app_space_contents(Path("hub_configs/space"), "org/groma-7b")
    >>> [line for line in contents.files["app.py"].decode().splitlines() if line.startswith("MODEL")]
    ['MODEL = "org/groma-7b"']
    """
    card = RepoCard((template / "README.md").read_text(encoding="utf-8"))
    card.data["title"] = model.rpartition("/")[2]
    card.data["models"] = [model]
    app = (template / "app.py").read_text(encoding="utf-8")
    packages = (template / "requirements.txt").read_text(encoding="utf-8")
    files: dict[str, Path | bytes] = {
        "README.md": str(card).encode(),
        "app.py": _replaced(app, _MODEL_LINE, f"MODEL = {python_string(model)}").encode(),
        # Its app and the package belong together: another version may have another app.
        "requirements.txt": _replaced(packages, _PACKAGE_LINE, f"{_PACKAGE_LINE}=={__version__}").encode(),
    }
    return Contents("space", files, needs=(model,))


def space_sdk(contents: Contents) -> str:
    """What a Space runs on, which the Hub wants to know before its files are there.

    Args:
        contents (`Contents`): of a Space.

    Returns:
        `str`: `"gradio"`, `"static"`, `"docker"` or `"streamlit"`, as its card says.

    Raises:
        ValueError: the card names none of these.

    Example:
    >>> space_sdk(space_contents(Path("hub_configs/space")))
    'gradio'
    """
    source = contents.files["README.md"]
    card = source if isinstance(source, bytes) else source.read_bytes()
    sdk = metadata_of(card.decode("utf-8")).get("sdk")
    if sdk not in SDKS:
        raise ValueError(f"README.md says `sdk: {sdk}`, and the Hub runs {', '.join(SDKS)}. Correct it.")
    return sdk


def _replaced(text: str, line: str, by: str) -> str:
    """A text with one of its lines replaced."""
    lines = text.splitlines()
    lines[lines.index(line)] = by
    return "\n".join(lines) + "\n"


__all__ = ["app_space_contents", "space_contents", "space_sdk"]
