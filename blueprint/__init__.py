"""What the Pulumi program would build, told without an engine, an account or a network: `make preview`, `make diagram`."""
