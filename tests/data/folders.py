"""Image folders for tests."""

import json
from pathlib import Path

from PIL import Image

# Two cups and a mug, from right to left; the last box has no text.
OBJECTS = {
    "bbox": [[200, 40, 100, 60], [20, 30, 50, 70], [110, 10, 40, 40], [0, 0, 320, 240]],
    "text": ["a blue cup", "A blue cup.", "a red mug", None],
}
CUP_RIGHT, CUP_LEFT, MUG = [200, 40, 300, 100], [20, 30, 70, 100], [110, 10, 150, 50]
MESSAGES = [
    {"role": "user", "content": "[grounding]Is <region 2> bigger than <region 0>?"},
    {"role": "assistant", "content": "No, <p>the blue cup</p> <region 0> is. Also: <region 1> <region 2>"},
]


def write_folder(folder: Path, *lines: dict, size: tuple[int, int] = (320, 240)) -> Path:
    """An image folder with a grey image for each line."""
    folder.mkdir(exist_ok=True, parents=True)
    for line in lines:
        path = folder / line["file_name"]
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", size, "gray").save(path)
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n", encoding="utf-8")
    return folder


def turns(row: dict) -> list[tuple[list, list]]:
    """Questions and answers of a row as `(type, text, boxes)`, boxes as corners."""
    contents = [
        [
            (part["type"], part["text"], [row["boxes_xyxy"][index] for index in part["boxes"]])
            for part in message["content"]
        ]
        for message in row["messages"]
    ]
    return list(zip(contents[::2], contents[1::2]))


def lines_of(folder: Path, *lines: str | bytes | dict) -> Path:
    """An image folder whose `metadata.jsonl` has these lines, as they are."""
    folder.mkdir(exist_ok=True)
    for name in ("a.jpg", "b.jpg"):
        Image.new("RGB", (320, 240), "gray").save(folder / name)
    content = [json.dumps(line) if isinstance(line, dict) else line for line in lines]
    (folder / "metadata.jsonl").write_bytes(
        b"\n".join(line.encode() if isinstance(line, str) else line for line in content)
    )
    return folder


def one(name: str, box: list[float], text: str | None = "a cup", **more) -> dict:
    return {"file_name": name, "objects": {"bbox": [box], "text": [text]}, **more}
