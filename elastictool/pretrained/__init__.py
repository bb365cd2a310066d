"""Weights that others trained, under our names: one file of declarations per format."""
