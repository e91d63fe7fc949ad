"""Filters of whole prompts, which leave both modes or neither: duplicates, benchmark items, wrong answers."""
