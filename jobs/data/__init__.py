"""Rows and packed blocks as stages read them, and the leases by which workers share them."""
