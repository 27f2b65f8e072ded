"""What is done with the audit trail once it is written: proved, read, exported, streamed, and in time forgotten.

Writing is tenants/audit.py's alone. Nothing here may change an event.
"""
