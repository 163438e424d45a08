"""Writes the model card of a converted GLaMM."""

from pathlib import Path

from ...model_cards import fill_model_card

_TEMPLATE = Path(__file__).with_name("model_card_glamm.md")


def write_card(folder: Path, name: str, released: str | None = None) -> None:
    """Write a card.

    Args:
        folder (`Path`): the model's folder.
        name (`str`): name of the model.
        released (`str`, *optional*): name of the released checkpoint on the Hub, for a folder without weights.
    """
    card = fill_model_card(
        "glamm",
        name,
        license="llama2",
        tags=["image-segmentation"],
        language="en",
        base_model=[f"MBZUAI/{released}"] if released else None,
        made_with="Converted",
        template=_TEMPLATE,
        released=released,
    )
    (folder / "README.md").write_text(card, encoding="utf-8")


__all__ = ["write_card"]
