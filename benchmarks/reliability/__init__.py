"""Measurements of reliability: kills, damaged inputs, faults, leakage, memory, large data."""
