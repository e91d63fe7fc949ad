"""The state of a study: what was submitted, what lives, how units ended, and what is missing."""
