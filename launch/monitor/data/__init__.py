"""The figures that the monitor shows, computed from each poll and from units' files."""
