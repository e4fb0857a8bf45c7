"""The command line: one file for each group of commands, loaded when called."""

__all__ = ["main", "options", "show"]
