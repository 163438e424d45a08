"""Writes the map in CONTRIBUTING.md: one line per file, with the first sentence of its docstring.

    python -m scripts.write_map

Everything else in CONTRIBUTING.md stays.
"""

import ast
import re
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
FOLDERS = ("src/transformers_groma", "processing", "scripts", "benchmarks", "metrics", "tests")
# Folders of built or downloaded files.
GENERATED = ("built", "wheels", "results", "__pycache__")
START, END = "<!-- written by scripts/write_map.py -->\n```\n", "```\n<!-- end -->\n"
# Names begin two columns to the right of their folder's; descriptions begin here.
DESCRIPTION_COLUMN = 44


def description(path: Path) -> str:
    """Read the first sentence of a module's docstring.

    Args:
        path (`Path`): a Python file.

    Returns:
        `str`: without its full stop; empty for a module without a docstring.
    """
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    sentence = re.split(r"(?<=[^.])\.(?:\s|$)", " ".join(text.split("\n\n")[0].split()))[0]
    return sentence.removesuffix(".")


def python_map(repository: Path = REPOSITORY) -> str:
    """Make the lines of the map.

    Args:
        repository (`Path`): root of the repository.

    Returns:
        `str`: one line a Python file or folder.
    """
    paths = [path.relative_to(repository) for folder in FOLDERS for path in (repository / folder).rglob("*.py")]
    files = sorted(path for path in paths if not any(part in GENERATED or part[0] == "." for part in path.parts))
    lines: list[str] = []
    _add_folder(Path(), files, lines, repository)
    return "".join(f"{line.rstrip()}\n" for line in lines)


def _add_folder(folder: Path, files: list[Path], lines: list[str], repository: Path) -> None:
    """The files of a folder, then its folders, each with what is in it."""
    depth = len(folder.parts)
    inside = [path for path in files if path.is_relative_to(folder)]
    for path in inside:
        if path.parent == folder and path.name != "__init__.py":
            lines.append(f"{'  ' * depth + path.name:<{DESCRIPTION_COLUMN}}{description(repository / path)}")
    names = {path.parts[depth] for path in inside if len(path.parts) > depth + 1}
    for name in sorted(names, key=lambda name: (_rank(folder / name), name)):
        package = repository / folder / name / "__init__.py"
        text = description(package) if package.is_file() else ""
        lines.append(f"{'  ' * depth + name + '/':<{DESCRIPTION_COLUMN}}{text}")
        _add_folder(folder / name, files, lines, repository)


def _rank(folder: Path) -> int:
    """Sort folders as in `FOLDERS`, and folders within these by name."""
    ranks = [rank for rank, name in enumerate(FOLDERS) if Path(name).is_relative_to(folder)]
    return ranks[0] if ranks else len(FOLDERS)


def main() -> None:
    """Write the map."""
    document = REPOSITORY / "CONTRIBUTING.md"
    before, _, rest = document.read_text(encoding="utf-8").partition(START)
    document.write_text(before + START + python_map() + END + rest.partition(END)[2], encoding="utf-8")


if __name__ == "__main__":
    main()
