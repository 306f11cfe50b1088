"""The command line `segments`; does not contain the work that its commands start."""
