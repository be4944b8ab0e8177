"""Proof that nothing is lost: what has happened is written down, and held against what is promised.

`history` is what clients, receivers and logs have seen; `checker` says which promise was broken.
The simulator (`skyring.testing.simulation`) and the chaos suite with real processes use both.
"""
