"""Questions to models behind an OpenAI-compatible endpoint."""
