"""The adapter between lm-eval and an engine."""
