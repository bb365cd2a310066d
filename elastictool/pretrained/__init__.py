"""Importers of foreign checkpoints, one declarative key map per format."""
