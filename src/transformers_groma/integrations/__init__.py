"""Adapters: Groma in other people's tools."""
