"""Study and cluster files, read and checked, and the plan of units they make."""
