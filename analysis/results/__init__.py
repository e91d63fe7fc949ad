"""Read result files of this toolkit and of others into one table."""
