"""The composition root: builds every part of a node and runs them in one TaskGroup."""
