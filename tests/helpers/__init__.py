"""Helpers of several test modules: toy data, saved runs, foreign weights, child processes."""
