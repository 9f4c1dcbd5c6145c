"""What the benchmark scripts share: the load generator, the two masters side by side, and the page of results."""
