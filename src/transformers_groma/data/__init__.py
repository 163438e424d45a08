"""Datasets: columns, conversations, mixtures, Parquet shards, image folders."""
