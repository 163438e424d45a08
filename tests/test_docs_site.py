"""The documentation as a site: it builds, dead links fail, and its pages load nothing from elsewhere."""

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import transformers_groma
from scripts.build_docs import navigation_faults, pages_of, site_faults

REPOSITORY = Path(__file__).parents[1]
DOCS = REPOSITORY / "docs"
PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))
SOURCE_URL = "https://github.com/transformers-groma/transformers-groma/blob/main/"
MAX_IMAGE_BYTES = 300_000
needs_zensical = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("zensical", "mkdocstrings_handlers"))),
    reason='the site is not built without `pip install ".[docs]"`',
)


def copy_of_the_docs(folder: Path) -> Path:
    """A folder in which the site can be built, and pages can be damaged."""
    shutil.copy(REPOSITORY / "mkdocs.yml", folder)
    shutil.copytree(DOCS, folder / "docs")
    for name in ("src", "scripts"):
        (folder / name).symlink_to(REPOSITORY / name)
    return folder


def build(folder: Path) -> tuple[int, str]:
    """Exit status and output of what `make docs` runs."""
    command = [sys.executable, "-m", "scripts.build_docs", "--root", str(folder)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    return done.returncode, re.sub(r"\x1b\[[\d;]*m", "", done.stdout + done.stderr)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = copy_of_the_docs(tmp_path_factory.mktemp("site"))
    code, output = build(folder)
    assert code == 0, output
    assert output.endswith(f"for its search: python -m http.server --directory {folder / 'site'}\n")
    return folder / "site"


@needs_zensical
def test_every_page_is_built(site):
    assert [page for page in PAGES if not (site / page).with_suffix(".html").is_file()] == []


@needs_zensical
def test_the_api_pages_have_every_public_name(site):
    text = "".join(page.read_text(encoding="utf-8") for page in (site / "api").rglob("*.html"))
    names = set(re.findall(r'id="transformers_groma\.(\w+)"', text))
    assert sorted(set(transformers_groma.__all__) - names) == []


@needs_zensical
def test_dead_links_fail(tmp_path):
    folder = copy_of_the_docs(tmp_path)
    page = folder / "docs" / "speed.md"
    links = [
        "[a page](no-such-page.md)",
        "[a section](finetune.md#no-such-section)",
        "[a name][transformers_groma.no_such_name]",
    ]
    page.write_text(f"{page.read_text(encoding='utf-8')}\n\nLook at {', '.join(links)}.\n", encoding="utf-8")
    code, output = build(folder)
    assert code != 0
    for said in ("page does not exist", "anchor does not exist", "no_such_name"):
        assert said in output
    assert "3 issues found" in output


@needs_zensical
def test_what_zensical_does_not_check_fails(site, tmp_path):
    shutil.copytree(site, tmp_path / "site")
    assert site_faults(tmp_path / "site") == []
    page = tmp_path / "site" / "speed.html"
    text = page.read_text(encoding="utf-8")
    image, link = '<img src="images/no-such.svg">', '<link href="//fonts.example">'
    added = f'{image}<script src="https://cdn.example/x.js"></script>{link}'
    page.write_text(text.replace("</body>", f"{added}</body>"), encoding="utf-8")
    (tmp_path / "site" / "style.css").write_text("@import url(https://fonts.example/a.css);")
    assert site_faults(tmp_path / "site") == [
        "speed.html loads https://cdn.example/x.js from elsewhere.",
        "speed.html loads //fonts.example from elsewhere.",
        "speed.html names images/no-such.svg, which is not there.",
        "style.css loads https://fonts.example/a.css from elsewhere.",
    ]


def test_faults_of_the_navigation(tmp_path):
    (tmp_path / "docs" / "api").mkdir(parents=True)
    for name in ("index.md", "api/boxes.md", "forgotten.md"):
        (tmp_path / "docs" / name).touch()
    (tmp_path / "mkdocs.yml").write_text("nav: [index.md, {API: [api/boxes.md, gone.md]}, index.md]")
    assert navigation_faults(tmp_path) == [
        "mkdocs.yml names docs/gone.md, which is not there.",
        "docs/forgotten.md is not in the `nav` of mkdocs.yml.",
        "mkdocs.yml names docs/index.md twice.",
    ]
    assert pages_of([{"A": [{"B": "b.md"}]}, "c.md"]) == ["b.md", "c.md"]


def test_the_navigation_has_every_page_once():
    assert navigation_faults(REPOSITORY) == []


@pytest.mark.parametrize("page", PAGES)
def test_links_into_the_repository_lead_to_files(page):
    """Pages name files outside docs/ by their address, which works on GitHub and in the site."""
    text = (DOCS / page).read_text(encoding="utf-8")
    paths = [path.partition("#")[0] for path in re.findall(re.escape(SOURCE_URL) + r"([^)\s]+)", text)]
    assert [path for path in paths if not (REPOSITORY / path).exists()] == []


def test_images_are_small():
    for image in (DOCS / "images").iterdir():
        assert image.stat().st_size < MAX_IMAGE_BYTES, image.name
