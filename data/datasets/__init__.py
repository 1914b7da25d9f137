"""On-disk layouts of published data sets."""
