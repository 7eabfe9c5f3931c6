"""What is kept for later requests, in files of SQLite."""
