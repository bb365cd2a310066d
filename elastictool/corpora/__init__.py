"""Lists the clips of corpora: one file per corpus."""
