"""The figures of the pages, as numbers that figures.html.j2 draws.

Text is HTML and keeps its size at any width; marks are placed in percent of the plot. So a figure
fills its column on a phone and on a desk, follows the colours of the page, and needs no script.
"""
