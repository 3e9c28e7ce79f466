"""Results with intervals beside the paper's figures, as HTML, Markdown and JSON."""
