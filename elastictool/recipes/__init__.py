"""Figures and tables of the papers as graphs of steps: what is to be done, and doing it."""
