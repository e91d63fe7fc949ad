"""One run of a unit in a job: its start, its context, how it ends and what it records."""
