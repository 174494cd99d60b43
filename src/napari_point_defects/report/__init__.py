"""One HTML page of an analysis that needs nothing but a browser, and its data beside it."""
