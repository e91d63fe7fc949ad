"""Submission to Slurm: arrays, limits, scripts, and the copy of the code."""
