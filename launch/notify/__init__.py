"""Notifications about a study: what is worth reporting, and sending it."""
