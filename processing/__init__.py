"""One script per raw dataset (`python -m processing.NAME --help`); each writes Parquet shards in our columns."""
