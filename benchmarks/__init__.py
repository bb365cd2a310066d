"""Measure elastictool and compare it with other code; run each module with ``python -m``."""
