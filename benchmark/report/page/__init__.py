"""From records to one page for a browser: the data of each section as plain dicts, and the page.

A section is a dict with `id`, `title`, `about` and `parts`. A part is a dict whose `kind` says what
the page makes of it: a chart ('figure'), a table with coloured cells ('grid'), the sliders
('sliders'), pictures of samples ('gallery'), or a sentence on what is missing ('lacking').
"""
