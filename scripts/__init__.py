"""Scripts that maintainers run: building what hub_configs/ holds, and the map in CONTRIBUTING.md."""
