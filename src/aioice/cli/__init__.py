"""The sub-commands of the command line, one small file each over the public API."""
