"""This machine as the place where jobs run: processes, without a scheduler."""
