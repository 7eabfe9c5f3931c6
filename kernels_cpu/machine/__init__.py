"""What this machine offers: instruction sets, executable memory, and a folder for compiled code.

``cpu`` has the table of instruction-set tiers. Nothing here knows a kernel or imports numba.
"""
