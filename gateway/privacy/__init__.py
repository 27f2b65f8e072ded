"""Personal data and guardrails: what is found in a call, what becomes of it, and who has said so."""
