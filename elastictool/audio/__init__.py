"""Decoding, resampling, filterbank and spectrogram augmentation."""
