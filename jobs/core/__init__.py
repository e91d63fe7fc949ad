"""Code shared by launch, analysis and jobs: units, causes, FLOPs, secrets. No torch, no numpy."""
