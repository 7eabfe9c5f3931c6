"""Programs that a test runs in a process of their own, to hammer the engine and watch it."""
