"""Attention backends: one file each, one interface; tests compare all with ``reference``."""
