"""Evaluation, sweeps, token accounting and compute cost."""
