"""What launch, analysis and jobs share: units, causes, FLOPs, secrets. Light: no torch, no numpy."""
