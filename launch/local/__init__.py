"""Backend for this machine: jobs are processes, without a scheduler."""
