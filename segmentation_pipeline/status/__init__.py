"""What an installation does and what is wrong with it; changes nothing, and waits for no run."""
