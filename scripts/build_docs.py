"""Builds the documentation as a site in `site/`, strictly: whatever leads nowhere is an error.

    python -m scripts.build_docs

zensical checks links between pages, their sections and the names of the API. What it does not check is checked here:
pages of the navigation, pages that are in no navigation, images, and that no page loads anything from elsewhere.
"""

import argparse
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).parents[1]
# What a browser loads for a page without being asked; links are followed only when a reader wants to.
_LOADED = ("src", "srcset", "data", "poster", "href")
_COLOR = re.compile(r"\x1b\[[\d;]*m")
_IN_STYLES = re.compile(r"(?:url\(|@import\s+(?!url))\s*['\"]?([^'\")]+)")
_OUTSIDE = re.compile(r"(?:[a-z]+:)?//")


class _Addresses(HTMLParser):
    """The addresses in a page: those that are loaded with it, and those of links."""

    def __init__(self):
        super().__init__()
        self.loaded: list[str] = []
        self.linked: list[str] = []

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name in _LOADED and value and tag != "meta":
                (self.linked if tag == "a" else self.loaded).append(value)


def addresses(page: Path) -> _Addresses:
    """Read the addresses in a page.

    Args:
        page (`Path`): an HTML file.

    Returns:
        `_Addresses`: `loaded` and `linked`, as written.
    """
    reader = _Addresses()
    reader.feed(page.read_text(encoding="utf-8"))
    return reader


def pages_of(nav: list) -> list[str]:
    """List the files that a navigation names.

    Args:
        nav (`list`): `nav` of `mkdocs.yml`.

    Returns:
        `list[str]`: paths inside `docs/`, in order.

    Example:
    >>> pages_of(["index.md", {"Use": ["app.md", {"Server": "serve.md"}]}])
    ['index.md', 'app.md', 'serve.md']
    """
    found: list[str] = []
    for entry in nav:
        target = next(iter(entry.values())) if isinstance(entry, dict) else entry
        found += pages_of(target) if isinstance(target, list) else [target]
    return found


def navigation_faults(root: Path) -> list[str]:
    """Compare the navigation with the pages.

    Args:
        root (`Path`): folder of `mkdocs.yml` and `docs/`.

    Returns:
        `list[str]`: a sentence for each page that is missing, or that no reader would find.
    """
    named = pages_of(yaml.safe_load((root / "mkdocs.yml").read_text(encoding="utf-8"))["nav"])
    docs = root / "docs"
    written = {path.relative_to(docs).as_posix() for path in docs.rglob("*.md")}
    faults = [f"mkdocs.yml names docs/{page}, which is not there." for page in named if page not in written]
    faults += [f"docs/{page} is not in the `nav` of mkdocs.yml." for page in sorted(written - set(named))]
    return faults + [f"mkdocs.yml names docs/{page} twice." for page in set(named) if named.count(page) > 1]


def site_faults(site: Path) -> list[str]:
    """Look for what leads nowhere in a built site, and for what its pages load from elsewhere.

    Args:
        site (`Path`): the built site.

    Returns:
        `list[str]`: a sentence for each fault.
    """
    faults = []
    for page in sorted(site.rglob("*.html")):
        name, found = page.relative_to(site).as_posix(), addresses(page)
        faults += [f"{name} loads {address} from elsewhere." for address in found.loaded if _OUTSIDE.match(address)]
        if page.name == "404.html":  # its addresses begin at the root of a server
            continue
        for address in found.loaded + found.linked:
            path = re.split(r"[?#]", address)[0]
            if path and not re.match(r"[a-z]+:|//", address) and not (page.parent / path).exists():
                faults.append(f"{name} names {address}, which is not there.")
    for style in sorted(site.rglob("*.css")):
        for address in _IN_STYLES.findall(style.read_text(encoding="utf-8")):
            if _OUTSIDE.match(address):
                faults.append(f"{style.relative_to(site)} loads {address} from elsewhere.")
    return faults


def build(root: Path) -> int:
    """Build the site of a folder and print what is wrong with it.

    Args:
        root (`Path`): folder of `mkdocs.yml` and `docs/`.

    Returns:
        `int`: exit status, 0 if nothing is wrong.
    """
    faults = navigation_faults(root)
    if not faults:
        command = [sys.executable, "-m", "zensical", "build", "--config-file", "mkdocs.yml", "--strict", "--clean"]
        done = subprocess.run(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            # Without its colours, letter by letter, and without the traceback of its own code.
            print(_COLOR.sub("", done.stdout).partition("Traceback")[0])
            return done.returncode
        faults = site_faults(root / "site")
    site = root / "site"
    # Browsers do not let a page that was opened as a file load the index of the search.
    built = f"The documentation is in {site / 'index.html'}; for its search: python -m http.server --directory {site}"
    print("\n".join(faults) if faults else built)
    return 1 if faults else 0


def main(argv: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv (`list[str]`, *optional*): arguments; those of the process by default.

    Returns:
        `int`: exit status.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=REPOSITORY, help="folder of mkdocs.yml and docs/")
    return build(parser.parse_args(argv).root)


if __name__ == "__main__":
    sys.exit(main())
