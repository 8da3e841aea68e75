"""Stores of sessions: each keeps the contract of ntm_serve.store, and is known to the composition root alone."""
