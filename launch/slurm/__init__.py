"""A Slurm cluster: its programs called, their text parsed, and the jobs of a study on it."""
