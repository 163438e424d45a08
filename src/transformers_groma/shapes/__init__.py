"""Synthetic scenes of coloured shapes: every box and phrase is known."""
