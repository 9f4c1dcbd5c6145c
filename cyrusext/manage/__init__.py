"""What the commands do: talk to the node, change records, read and write dumps.  The CLI only parses and prints."""
