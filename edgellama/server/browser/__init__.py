"""What the chat page asks its server for: its files, conversations, replies, models.

The files themselves, which run in the browser, lie in ``server/page``. The conversations are kept
by ``stores.page_conversations``.
"""
