"""From shapes to figures of matplotlib; nothing else imports it.

Most of a figure is drawn on a `sheet`, whose coordinates are inches, so that a figure has exactly
the width that was asked for and texts can be measured before they are placed.
"""
