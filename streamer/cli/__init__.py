"""The command line: `main.py` declares the commands, each other module implements one."""
