"""Releases: publish, verify, roll back, export and restore; does not contain the tables that they hold (`tables`)."""
