"""The figures of the pages, as inline SVG."""
