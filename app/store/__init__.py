"""Artifacts on disk: what one says of itself, and how it is published, verified and resolved."""
