"""Faults against the running laptop stack while users write, and a look at what is left: see docs/chaos.md."""
