"""What a command shows: tables, plots, progress, and texts while they are made."""
