"""From records to figures for a paper: the charts of the page, drawn by matplotlib.

`charts` turns the sections of the page into shapes that hold numbers and texts alone, so that page
and figures show one number. `drawing` turns shapes into figures; only it imports matplotlib.
"""
