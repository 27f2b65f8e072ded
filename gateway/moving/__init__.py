"""Taking over what another gateway was told: its configuration read, shown, and made ours.

Only adds. What cannot be carried over is said, never guessed.
"""
