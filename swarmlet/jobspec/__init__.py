"""Job files: text to `Job`, with positions kept."""
