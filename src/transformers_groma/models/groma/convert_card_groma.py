"""Writes the model card of a converted Groma or stage-1 detector."""

from pathlib import Path

from ...model_cards import KIND_OF_TYPE, fill_model_card
from .configuration_groma import GromaConfig, GromaRegionProposalConfig

_TEMPLATE = Path(__file__).with_name("model_card_groma.md")


def write_card(folder: Path, name: str, config: GromaConfig | GromaRegionProposalConfig) -> None:
    """Write a card.

    Args:
        folder (`Path`): the model's folder.
        name (`str`): name of the model.
        config (`GromaConfig` or `GromaRegionProposalConfig`): its configuration.
    """
    is_detector = isinstance(config, GromaRegionProposalConfig)
    card = fill_model_card(
        KIND_OF_TYPE[config.model_type],
        name,
        license="apache-2.0" if is_detector else "llama2",
        language=None if is_detector else "en",
        config=config.to_dict(),
        made_with="Converted",
        template=_TEMPLATE,
    )
    (folder / "README.md").write_text(card, encoding="utf-8")


__all__ = ["write_card"]
