"""What plugins are and exchange with the core: hooks, kinds, records, checks at the border."""
