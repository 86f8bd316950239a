"""What the program is measured against, and the measured results."""
