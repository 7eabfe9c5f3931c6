"""Runs parts of edgellama for tests, and hides how they are called."""
