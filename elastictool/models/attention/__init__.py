"""Attention backends: one file each, one interface, all held to `reference`."""
