"""The command line: `main` registers the commands; each has its options, help and code in a module of its name."""
