"""One script per raw dataset (`python -m processing.NAME --help`), which writes Parquet shards in our columns."""
