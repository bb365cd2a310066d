"""Measurements of our code against others', as ratios; run each with ``python -m``."""
