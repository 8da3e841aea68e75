"""What clients speak to: each frontend turns messages into domain types and back, and decides nothing."""
