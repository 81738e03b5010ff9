"""The command line: one file a command, one frame for all."""
