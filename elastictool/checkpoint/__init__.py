"""Weights with metadata, run directories, and finding a run."""
