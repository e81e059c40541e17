"""The web process: pages, live pictures, events, metrics. It decodes nothing and asks no model."""
