"""The monitor's pages, as lines of text. Pure."""
