"""Synthetic scenes of colored shapes, whose every box and phrase is known."""
