"""The commands, a module each: they parse, call and print. Everything heavy is imported when a command runs."""
