"""The stages of a study, one `run(ctx)` to a file."""
