"""Annotates very many images with a model: sources in, Parquet shards of captions and regions out."""
