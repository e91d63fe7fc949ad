"""What runs on compute nodes. `toy` and `smollm` are named by studies; their paths belong to identities."""
