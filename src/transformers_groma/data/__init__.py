"""Data: column schemas, conversations, mixtures of datasets, synthetic scenes."""
