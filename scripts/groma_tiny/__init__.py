"""Builds, trains and describes hub_configs/groma-tiny."""
