"""What every command needs around its work; nothing here knows a network."""
