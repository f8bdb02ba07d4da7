"""The components that the Pulumi program composes. Nothing is imported here: the process that runs the vector index's
provider imports this package too, and needs one module of it."""
