"""Authentication: from what a call says of its caller to who it is."""
