"""What is kept for later requests, in SQLite files, each with a thread of its own.

``sqlite_file`` is the file. Responses and the page's conversations each have one.
"""
