"""A page as blocks of text: cut, chosen and laid out. Read in this order:

cut         runs of text between the elements that begin a line
select      which blocks an extractor keeps, and why
render      blocks as text or Markdown
title       the page's title, without the site's name
features    what the model knows about a block, in whole numbers
model       boosted trees over the features (`model.npz`; `MODEL.md` tells where it comes from)
labels      which blocks of a page with known text are right; trained on by `scraping.extraction.train`
"""
