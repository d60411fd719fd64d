"""The `act-eval` command line: it parses and prints; the work is done elsewhere."""
