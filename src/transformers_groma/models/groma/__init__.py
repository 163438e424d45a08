"""Groma: configuration, processors, model, conversion of the released checkpoints."""
