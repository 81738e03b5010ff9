"""What plugins are and exchange with the core: hooks, kinds, records, and the checks at the border."""
