"""How the providers are: breakers, histograms, burn rates (all pure), their shared state, checks and history.

Guides routing and people, never money; all of it may be lost and is learnt again within minutes.
"""
