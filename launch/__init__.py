"""The login node: reads studies, decides what to submit, submits it, and shows how it goes. No torch."""
