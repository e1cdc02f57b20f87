"""The command line, its configuration and the batch runs built from the storeys below."""
