"""Results on disk, of this toolkit and of others, read into one table."""
