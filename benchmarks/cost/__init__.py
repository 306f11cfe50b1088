"""What a run costs: time, memory and disk, beside two scripts that do the same work without keeping any of it."""
