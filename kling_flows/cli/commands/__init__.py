"""One module for each command, or for a few that are one of a kind; they read options and leave the rest to others."""
