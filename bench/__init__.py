"""What this package costs, beside what a user would pick instead; run it with `make bench`."""
