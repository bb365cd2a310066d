"""Measure speed and memory of the parts on the user's machine: ``elastictool bench``."""
