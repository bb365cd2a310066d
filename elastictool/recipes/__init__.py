"""Reproduce the figures and tables of the papers by a series of steps."""
