"""elastictool: audio spectrogram transformers for any length, resolution and patch size."""

__version__ = "0.1.0"
