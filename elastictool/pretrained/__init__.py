"""Imports published weights: each checkpoint format is a table of names."""
