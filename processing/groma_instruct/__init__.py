"""Groma Instruct (paper section 4): a vision model writes grounded conversations about marked images."""
