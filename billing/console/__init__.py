"""The console's pages about money. Views call one verb or one query each; no rule of billing is decided here."""
