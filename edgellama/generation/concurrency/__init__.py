"""Threads, event loops and turns: who may run while others run, and for how long."""
