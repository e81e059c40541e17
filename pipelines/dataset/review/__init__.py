"""Review of labels by people: the order of the pictures, the decisions, and the data of the page."""
