"""Prompts, answers and rows as text: light, so that a login node can check them."""
