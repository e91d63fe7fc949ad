"""What `sor export` writes and uploads: the pairs as a dataset and the students as models, with cards."""
