"""Sizes of a new region encoder, with three maps or four."""

import pytest

from transformers_groma.models.convert_region_encoder import fit_region_encoder


@pytest.mark.parametrize(("width", "groups", "position"), [(1024, 64, 256), (96, 6, 24), (4, 1, 1)])
@pytest.mark.parametrize("layers", [[-3, -2, -1], [-11, -8, -5, -2]])
def test_proportions_are_the_paper_s(width, groups, position, layers):
    config = fit_region_encoder({"vision_feature_layers": layers}, width, 24, len(layers))
    assert (config.group_norm_groups, config.position_hidden_size, config.region_hidden_size) == (
        groups,
        position,
        width,
    )
    assert config.vision_feature_layers == layers


def test_another_one_s_sizes_come_before_proportions_and_chosen_ones_first():
    other = fit_region_encoder({"num_fuse_layers": 2, "region_hidden_size": 5}, 32, 4, 3).to_dict()
    config = fit_region_encoder({"region_hidden_size": 7}, 32, 4, 3, other)
    assert (config.num_fuse_layers, config.region_hidden_size, config.group_norm_groups) == (2, 7, 2)


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ([-3, -2, -1], "pass 4 integers"),
        ([-6, -3, -2, -1], "pass 4 numbers from -5 to -1"),
        ([0, 1, 2, 5], "pass 4 numbers from -5 to -1"),
        ([0, 1, 2, True], "pass 4 integers"),
    ],
)
def test_layers_that_are_not_there(layers, words):
    with pytest.raises(ValueError, match=f"`vision_feature_layers` .*{words}"):
        fit_region_encoder({"vision_feature_layers": layers}, 32, 4, 4)
