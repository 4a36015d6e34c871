"""All methods side by side: on tables, on a supernet, and in words."""
