"""Slurm clusters: call Slurm's programs, parse their output, and manage the jobs of a study."""
