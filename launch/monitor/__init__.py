"""`sor monitor`: a full-screen view of studies. Displays state, handles keys; decides nothing about jobs."""
