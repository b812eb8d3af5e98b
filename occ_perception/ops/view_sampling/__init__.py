"""View sampling: features at places in space, read from the first camera that sees each place."""
