"""The report: standings as a page that opens from disk, and its charts as files."""
