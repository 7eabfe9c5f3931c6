"""The commands: a module for each that ``application`` lists, and what it alone needs."""
