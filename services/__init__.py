"""Long-running processes: thin wiring and HTTP or stream edges around the library."""
