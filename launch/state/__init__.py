"""State of a study: submissions, live jobs, how units ended, and what is missing."""
