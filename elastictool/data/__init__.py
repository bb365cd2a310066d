"""The prepared store, the dataset, the samplers and the collate."""
