"""The metrics of the benchmarks, as functions of answers and truth."""
