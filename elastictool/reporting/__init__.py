"""Make figures and tables from result files."""
