"""Contracts and SELECTs of all tables, one folder per stage."""
