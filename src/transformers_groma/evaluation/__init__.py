"""Runs a model on benchmarks: what it answers, how that is scored, and what is reported."""
