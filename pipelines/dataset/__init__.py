"""Datasets: pictures with answers, in the file formats of labelling and training tools."""
