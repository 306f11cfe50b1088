"""Releases: publish, verify, roll back, export and restore them; does not contain the tables that they hold (`tables`)."""
