"""Prompts, answers and rows as text, without heavy imports, so that login nodes can check them."""
