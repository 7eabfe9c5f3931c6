"""What requests may say, in each protocol, and the options of a text that it becomes.

``fields`` splits a body into a protocol's own fields and a text's options; the others each know one
kind of field. Endpoints are left to the routes.
"""
