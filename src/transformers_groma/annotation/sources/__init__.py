"""Where images to annotate come from: folders, Parquet files, WebDataset archives and datasets of the Hub."""
