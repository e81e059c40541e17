"""The page on which people review labels, served by a command of its own."""
