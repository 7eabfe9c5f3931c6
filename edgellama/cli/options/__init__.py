"""Options of several commands: what may be written, and the arguments that it becomes."""
