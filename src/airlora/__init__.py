"""airlora decides which low-rank adapter components to send over a weak link, and learns that decision."""
