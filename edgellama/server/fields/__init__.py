"""The fields of requests in each protocol, and the options of a text that they become.

``fields`` divides a body into a protocol's own fields and a text's options. Each of the other
modules knows one kind of field. The routes know the endpoints.
"""
