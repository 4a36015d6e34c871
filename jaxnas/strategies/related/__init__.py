"""Related methods of others, one file each, and what they share."""
