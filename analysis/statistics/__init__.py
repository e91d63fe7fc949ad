"""The frontier, comparisons at matched compute, and their uncertainty. Tables in, tables out."""
