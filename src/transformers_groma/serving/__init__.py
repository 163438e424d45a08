"""A model behind an HTTP address: an engine that batches requests, and an OpenAI-compatible server on top."""
