"""The model: how it is built, captured as a graph, cut into stages, and loaded on a host."""
