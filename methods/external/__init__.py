"""Methods that are commands of the user's own: given a dataset folder and cameras, they write pictures."""
