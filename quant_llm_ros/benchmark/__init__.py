"""How long decisions take: ours, with and without what makes them fast, and others' runtimes."""
