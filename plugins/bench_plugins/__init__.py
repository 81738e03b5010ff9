"""Everything of this project that has a name, found through the entry-point group `bench`."""
