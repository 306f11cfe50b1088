"""Pseudonyms, masked patterns and the erasure of customers; does not contain the commands (`cli`)."""
