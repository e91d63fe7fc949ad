"""The frontier, comparisons at matched compute, and how sure they are. Tables in, tables out."""
