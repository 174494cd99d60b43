"""Movies of one sheet: cells linked from frame to frame, and when each vacancy was made."""
