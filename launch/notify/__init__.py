"""News of a study for somebody who does not look: what is worth telling, and telling it."""
