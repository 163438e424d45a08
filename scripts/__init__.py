"""Scripts for maintainers: building what hub_configs/ holds, and the map in CONTRIBUTING.md."""
