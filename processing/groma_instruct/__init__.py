"""Groma Instruct (section 4 of the paper): grounded conversations that a vision model writes about marked images."""
