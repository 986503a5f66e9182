"""The `headrace` command: parses, prints and exits; what it does stands in the packages."""
