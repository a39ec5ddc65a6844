"""The functions behind the sub-commands; each imports what it needs when it runs."""
