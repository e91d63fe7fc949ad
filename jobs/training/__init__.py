"""The parts of a training: schedule, processes, checkpoints."""
