"""The config file: its model, reading YAML with line numbers, validation, changes while an agent runs."""
