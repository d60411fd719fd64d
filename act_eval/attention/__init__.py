"""What happens inside one attention call: sinks are found, and the outputs of calibrated heads replaced."""
