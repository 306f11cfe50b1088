"""The retailer file, the environment variables and the paths on disk."""
