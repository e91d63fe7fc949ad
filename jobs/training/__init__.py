"""What a training is made of: its schedule, its processes, its checkpoints."""
