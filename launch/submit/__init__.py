"""Everything that a submission to Slurm is made of: arrays, limits, scripts, the copy of the code."""
