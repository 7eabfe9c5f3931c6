"""What is kept for later requests, in files of SQLite, each with a thread of its own.

``sqlite_file`` is the file; responses and the page's conversations each have one.
"""
