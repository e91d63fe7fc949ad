"""The figures that the monitor shows, computed from snapshots and unit files."""
