"""A cleaned copy of data files, and a ledger of what was done to which line."""
