"""Decode a held-out set and score it."""
