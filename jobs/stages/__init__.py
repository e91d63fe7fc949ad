"""The stages of a study, one module with a `run(ctx)` each."""
