"""Adapters that run Groma in other tools."""
