"""Networks as files for other runtimes: one step with flat inputs and outputs, state in and out."""
