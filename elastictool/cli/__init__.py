"""The command line: one thin file per subcommand; the only room that prints."""
