"""Decodes and resamples audio, computes filterbanks and augments spectrograms."""
