"""One module per file format of labelled pictures; each reads and writes `pipelines.dataset.labels.Labels`."""
