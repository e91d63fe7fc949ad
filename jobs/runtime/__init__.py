"""One run of a unit in a job: how it starts, where it stands, what ends it, and what it leaves written."""
