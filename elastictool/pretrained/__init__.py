"""Importers of published weights: each format is a table of names."""
