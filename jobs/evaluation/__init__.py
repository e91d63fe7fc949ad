"""What lies between lm-eval and an engine."""
