"""Code that runs on compute nodes. Studies name `toy` and `smollm`; their paths are part of identities."""
