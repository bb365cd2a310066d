"""What several test modules share: toy data, saved runs, foreign weights, child processes."""
