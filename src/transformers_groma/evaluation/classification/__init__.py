"""Zero-shot classification of a labelled dataset: one run prints the table of a paper."""
