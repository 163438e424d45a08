"""One script a raw dataset: `python -m processing.NAME --help`. Each writes Parquet shards with the columns of the package."""
