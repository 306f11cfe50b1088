"""Looking at a source that nobody has described, and writing its retailer file with what was found."""
