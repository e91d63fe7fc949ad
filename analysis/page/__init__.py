"""The report as one HTML page: its data, and the template, style and scripts that are embedded in it."""
