"""One file per corpus: each lists clips, nothing else."""
