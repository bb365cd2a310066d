"""Figures and tables, made from result files only."""
