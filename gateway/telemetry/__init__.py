"""What operators' own monitoring reads: metrics and traces, made from finished calls by the worker, never by a call.

Guides people, never money. A crash may lose or repeat a few of these figures; the ledger does neither.
"""
