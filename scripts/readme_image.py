"""Makes the README's image by running its first example.

python -m scripts.readme_image
"""

import os
import re
import tempfile
from pathlib import Path

from PIL import Image

REPOSITORY = Path(__file__).parents[1]
IMAGE = REPOSITORY / "docs" / "images" / "answer.png"


def first_example(readme: str) -> str:
    """The first Python block of a document.

    Args:
        readme (`str`): Markdown.

    Returns:
        `str`: its code.
    """
    return re.search(r"^```python\n(.*?)^```", readme, flags=re.MULTILINE | re.DOTALL)[1]


def readme_image() -> Image.Image:
    """What the first example of the README saves as `answer.png`, a drawing of an answer of groma-tiny.

    Returns:
        `PIL.Image.Image`: RGB.
    """
    code = first_example((REPOSITORY / "README.md").read_text(encoding="utf-8"))
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        for name in ("hub_configs", "docs"):
            (Path(folder) / name).symlink_to(REPOSITORY / name)
        os.chdir(folder)
        try:
            exec(compile(code, "README.md", "exec"), {})
        finally:
            os.chdir(before)
        with Image.open(Path(folder) / "answer.png") as image:
            return image.convert("RGB")


if __name__ == "__main__":
    readme_image().save(IMAGE, optimize=True)
