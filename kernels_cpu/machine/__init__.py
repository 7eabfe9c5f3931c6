"""What this machine offers: instruction sets, memory, a folder for what can be made again."""
