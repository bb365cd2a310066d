"""The command line: one thin file per subcommand. Only this package prints."""
